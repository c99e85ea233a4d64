from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.support import FakeDaemon, Run
from tests.control.support import Gate, serving

EVENT = {"at": "2026-11-21T01:02:03.456Z", "message": "release activated", "data": {"release_id": "r1"}}
LOG = {"process": "r1.web.0", "at": "2026-11-21T01:02:03.456Z", "stream": "stdout", "line": "hello"}


def test_status_prints_the_document_itself_with_json(run: Run, daemon: FakeDaemon) -> None:
    daemon.answers["status"] = {"result": {"application": "shop", "releases": []}}
    assert run("status", "--json").json == {"application": "shop", "releases": []}
    assert run("status").stdout.startswith("application  shop\n")


def test_events_and_logs_are_one_object_with_json(run: Run, daemon: FakeDaemon) -> None:
    daemon.answers["events"] = {"events": [EVENT]}
    daemon.answers["logs"] = {"logs": [LOG]}
    assert run("events", "--limit", "5", "--json").json == {"events": [EVENT]}
    assert run("logs", "--process", "web", "--lines", "7", "--json").json == {"logs": [LOG]}
    assert daemon.requests == [
        {"command": "events", "limit": 5},
        {"command": "logs", "lines": 7, "process": "web"},
    ]
    assert run("events").stdout == "2026-11-21T01:02:03.456Z  release activated  release_id=r1\n"
    assert run("logs").stdout == "2026-11-21T01:02:03.456Z r1.web.0 | hello\n"


def test_nothing_to_show_is_no_line(run: Run, daemon: FakeDaemon) -> None:
    daemon.answers["logs"] = {"logs": []}
    assert run("logs").stdout == ""
    assert run("logs", "--json").json == {"logs": []}


def test_following_prints_one_object_a_line_until_the_daemon_ends(run: Run, daemon: FakeDaemon) -> None:
    daemon.progress["events"] = [{"event": EVENT}, {"event": EVENT}]
    daemon.answers["events"] = {"events": [EVENT]}
    outcome = run("events", "-f", "--json")
    assert outcome.exit_code == 0
    assert outcome.json_lines == [EVENT, EVENT]
    assert outcome.stderr == "rollbridge: the daemon has shut down.\n"
    assert daemon.requests == [{"command": "events", "limit": 100, "follow": True}]


def test_interrupting_what_follows_is_its_usual_end(config: Path, tmp_path: Path) -> None:
    gate = Gate()
    with serving(tmp_path / "c.sock", gate):
        client = subprocess.Popen(
            [sys.executable, "-m", "rollbridge", "-c", str(config), "logs", "-f"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert gate.entered.wait(20)
        os.kill(client.pid, signal.SIGINT)
        assert client.communicate(timeout=20) == ("", "")
        assert client.returncode == 0
        assert gate.cancelled.wait(20), "the daemon goes on watching for a client that left"
