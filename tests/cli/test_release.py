from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rollbridge.control.protocol import CommandError
from tests.cli.support import FakeDaemon, Run
from tests.control.support import Gate, serving

SWITCHED = {"active_release_id": "r2", "previous_release_id": "r1", "changed": True}


def test_a_deploy_sends_an_absolute_path_and_leaves_symbolic_links_to_the_daemon(
    run: Run, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r2").mkdir()
    (tmp_path / "current").symlink_to("r2")
    monkeypatch.chdir(tmp_path)
    daemon.answers["deploy"] = SWITCHED
    outcome = run("deploy", "--release-path", "current/", "--release-id", "r2", "--revision", "abc", "--force")
    assert outcome.exit_code == 0
    assert outcome.stdout == "release r2 is active, it replaced r1\n"
    assert daemon.requests == [
        {
            "command": "deploy",
            "release_path": str(tmp_path / "current"),
            "release_id": "r2",
            "revision": "abc",
            "wait": False,
            "force": True,
        }
    ]


def test_the_daemon_chooses_what_was_not_said(run: Run, daemon: FakeDaemon) -> None:
    run("deploy", "--release-path", "/srv/r2", "--wait")
    run("rollback")
    run("stop")
    run("restart")
    assert daemon.requests == [
        {"command": "deploy", "release_path": "/srv/r2", "wait": True, "force": False},
        {"command": "rollback", "wait": False},
        {"command": "stop"},
        {"command": "restart"},
    ]


def test_progress_goes_to_stderr_and_the_result_to_stdout(run: Run, daemon: FakeDaemon) -> None:
    daemon.answers["deploy"] = SWITCHED
    daemon.progress["deploy"] = [
        {"phase": "start", "message": "starting r2.web.0", "process": "r2.web.0", "seconds": 0.02},
        {"phase": "done", "message": "release r2 is active", "seconds": 1.5},
    ]
    outcome = run("deploy", "--release-path", "/srv/r2", "--json")
    assert outcome.json == {"status": "success", **SWITCHED}
    assert outcome.stderr == "   0.02s  start       starting r2.web.0\n   1.50s  done        release r2 is active\n"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({**SWITCHED, "previous_release_id": None}, "release r2 is active"),
        ({**SWITCHED, "previous_release_id": "r2"}, "release r2 is active"),
        ({**SWITCHED, "changed": False}, "release r2 is active already, nothing changed"),
    ],
)
def test_the_outcome_is_told(run: Run, daemon: FakeDaemon, answer: dict[str, object], text: str) -> None:
    daemon.answers["rollback"] = answer
    assert run("rollback", "--release-id", "r2").stdout == f"{text}\n"


def test_a_failed_deploy_shows_the_last_output_and_keeps_its_data_in_json(run: Run, daemon: FakeDaemon) -> None:
    data = {"phase": "health", "process": "r2.web.0", "probe": "HTTP 500", "lines": ["Traceback", "\x1b[2Jboom"]}
    daemon.answers["deploy"] = CommandError("release r2 did not get healthy. Release r1 is still serving.", 1, data)
    outcome = run("deploy", "--release-path", "/srv/r2")
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert outcome.stderr.splitlines() == [
        "rollbridge: release r2 did not get healthy. Release r1 is still serving.",
        "last output of r2.web.0:",
        "  Traceback",
        "  ?[2Jboom",
    ]
    answer = run("deploy", "--release-path", "/srv/r2", "--json").json
    assert answer == {
        "status": "error",
        "error": "release r2 did not get healthy. Release r1 is still serving.",
        "exit_code": 1,
        **data,
    }


def test_a_refusal_keeps_its_exit_code(run: Run, daemon: FakeDaemon) -> None:
    daemon.answers["restart"] = CommandError("the proxied process is not restarted in place", 4)
    outcome = run("restart", "--process", "web", "--policy", "proxied")
    assert outcome.exit_code == 4
    assert daemon.requests == [{"command": "restart", "process": "web", "policy": "proxied"}]


def test_restart_and_stop_name_what_they_did(run: Run, daemon: FakeDaemon) -> None:
    daemon.answers["restart"] = {"restarted": ["r1.worker.0", "r1.worker.1"]}
    daemon.answers["stop"] = {"release_id": "r1"}
    assert run("restart").stdout == "restarted r1.worker.0, r1.worker.1\n"
    assert run("stop").stdout == "release r1 is stopped\n"


@pytest.mark.parametrize("command", ["status", "rollback", "stop", "restart", "shutdown", "events", "logs"])
def test_without_a_daemon_every_command_ends_with_3(run: Run, command: str) -> None:
    outcome = run(command, "--json")
    assert outcome.exit_code == outcome.json["exit_code"] == 3
    assert "no daemon runs" in outcome.stderr and outcome.stderr.count("\n") == 1


def test_an_interrupted_deploy_says_that_it_goes_on(config: Path, tmp_path: Path) -> None:
    gate = Gate()
    with serving(tmp_path / "c.sock", gate):
        client = subprocess.Popen(
            [sys.executable, "-m", "rollbridge", "-c", str(config), "--json", "deploy", "--release-path", "/srv/r2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert gate.entered.wait(20)
        os.kill(client.pid, signal.SIGINT)
        stdout, stderr = client.communicate(timeout=20)
        assert client.returncode == 1
        assert "the deploy goes on in the daemon" in stderr and stderr.count("\n") == 1
        assert '"exit_code": 1' in stdout
        gate.open()
        assert gate.finished.wait(20)
