"""``ensure-daemon`` and ``shutdown`` with real daemons."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cli.support import FakeDaemon, Run, runner
from tests.support.ports import free_block
from tests.support.processes import is_running, kill_and_wait
from tests.support.waiting import wait_until


class Application(NamedTuple):
    """A config file, and the command line for it, in processes of their own."""

    config: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rollbridge", arguments[0], "-c", str(self.config), *arguments[1:]],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def answer(self, *arguments: str) -> dict[str, Any]:
        ended = self.run(*arguments, "--json")
        answer = json.loads(ended.stdout)
        assert isinstance(answer, dict)
        return answer


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    port = free_block(9)
    config = tmp_path / "rollbridge.toml"
    config.write_text(
        f'application = "shop"\nruntime_dir = "{tmp_path}/run"\n'
        f'[control]\npath = "{tmp_path}/c.sock"\n[proxy]\nport = {port}\n'
        '[processes.web]\npolicy = "proxied"\ncommand = "true"\n'
        f"port = {{ from = {port + 1}, to = {port + 8} }}\n"
    )
    application = Application(config)
    yield application
    ended = application.run("shutdown")
    assert ended.returncode in (0, 3), ended.stderr


def test_it_starts_a_detached_daemon_once_and_shutdown_ends_it(application: Application, tmp_path: Path) -> None:
    started = application.answer("ensure-daemon")
    pid = started["pid"]
    assert started["started"] is True and started["log_path"] == f"{tmp_path}/run/daemon.log"
    assert os.getsid(pid) == pid, "a closing terminal would take it along"
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert Path(f"/proc/{pid}/fd/0").readlink() == Path("/dev/null")
    assert (tmp_path / "run" / "daemon.pid").read_text().strip() == str(pid)

    again = application.answer("ensure-daemon")
    assert (again["started"], again["pid"]) == (False, pid)

    ended = application.run("shutdown")
    assert ended.returncode == 0, ended.stderr
    assert not is_running(pid), "shutdown answered before the daemon was gone"
    assert not (tmp_path / "c.sock").exists() and not (tmp_path / "run" / "daemon.pid").exists()
    assert application.run("shutdown").returncode == 3


def test_many_at_once_start_one_daemon(application: Application) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: application.answer("ensure-daemon"), range(4)))
    assert [answer["status"] for answer in answers] == ["success"] * 4, answers
    assert len({answer["pid"] for answer in answers}) == 1
    assert sorted(answer["started"] for answer in answers) == [False, False, False, True]


def test_shut_down_and_started_again_without_a_delay(application: Application) -> None:
    pids = set()
    for _ in range(5):
        pids.add(application.answer("ensure-daemon")["pid"])
        assert application.run("shutdown").returncode == 0
    assert len(pids) == 5


def test_a_killed_daemons_socket_is_not_in_the_way(application: Application, tmp_path: Path) -> None:
    kill_and_wait(application.answer("ensure-daemon")["pid"])
    assert (tmp_path / "c.sock").exists()
    ended = application.run("status")
    assert ended.returncode == 3 and "nobody listens on" in ended.stderr
    assert application.answer("ensure-daemon")["started"] is True


def test_a_stopped_daemon_is_not_none(application: Application, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollbridge.control.client.ControlClient.request.__defaults__", (None, 0.1, None))
    pid = application.answer("ensure-daemon")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        outcome = run("ensure-daemon", "--json")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert outcome.exit_code == 3 and "does not answer: control socket" in outcome.stderr


def test_a_daemon_that_does_not_start_says_why(application: Application, tmp_path: Path) -> None:
    text = application.config.read_text()
    port = int(text.partition("[proxy]\nport = ")[2].split()[0])
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        ended = application.run("ensure-daemon")
    assert ended.returncode == 4
    assert ended.stderr.startswith("rollbridge: the daemon did not start: ") and str(port) in ended.stderr
    assert "Traceback" not in ended.stderr
    assert application.answer("ensure-daemon")["started"] is True


def test_problems_of_the_config_are_told_before_anything_is_started(application: Application, tmp_path: Path) -> None:
    application.config.write_text(application.config.read_text().replace('"proxied"', '"proxyed"'))
    ended = application.run("ensure-daemon")
    assert ended.returncode == 2 and "proxyed" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_daemon_of_other_code_or_another_application_is_refused(run: Run, daemon: FakeDaemon) -> None:
    daemon.answers["ping"] = {"pid": 77, "version": "0.0.9", "digest": "sha256:0", "application": "shop"}
    outcome = run("ensure-daemon")
    assert outcome.exit_code == 4
    assert "pid 77, version 0.0.9" in outcome.stderr and "Run `rollbridge upgrade`" in outcome.stderr
    daemon.answers["ping"] = {"pid": 77, "version": "0.0.9", "digest": "sha256:0", "application": "other"}
    outcome = run("deploy", "--release-path", "/x", "--ensure-daemon")
    assert outcome.exit_code == 4 and "belongs to the daemon of application other" in outcome.stderr
    assert daemon.requests == []


def test_a_start_that_takes_too_long_is_told_and_goes_on(application: Application, tmp_path: Path) -> None:
    ended = application.run("ensure-daemon", "--daemon-start-timeout", "0s", "--daemon-log-path", f"{tmp_path}/log")
    assert ended.returncode == 3 and "goes on starting" in ended.stderr, ended.stderr
    wait_until(lambda: application.run("status").returncode == 0, "the daemon answers in the end")


def test_a_log_that_cannot_be_written_is_told(capsys: pytest.CaptureFixture[str], application: Application) -> None:
    outcome = runner(capsys, application.config)("ensure-daemon", "--daemon-log-path", "/nonexistent/log")
    assert outcome.exit_code == 1 and "Choose another --daemon-log-path" in outcome.stderr
