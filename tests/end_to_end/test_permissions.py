"""Processes with limits and users of their own, started by the single file and kept by the daemon after it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.application import Application
from tests.support.waiting import wait_until


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_limits_and_umask_hold_for_every_start_and_across_daemons(application: Application) -> None:
    application.processes["web"].update({"umask": "027", "nice": 1, "limits": {"nofile": "200:300", "core": 0}})
    application.release("v1")
    application.start("v1")
    pid = application.pid_of("web")

    def assert_limited(pid: int) -> None:
        assert status_of(pid)["Umask"] == "0027"
        assert os.getpriority(os.PRIO_PROCESS, pid) == 1
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert "200                  300" in next(line for line in limits.splitlines() if "open files" in line)

    assert_limited(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: application.serving()[1] != pid, "it was started again")
    assert_limited(application.pid_of("web"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a process as somebody else")
def test_a_companion_runs_as_its_own_user_and_is_adopted_and_stopped(application: Application) -> None:
    application.processes["side"] = {
        "command": "echo I am $(id -un) at $HOME; exec sleep 1000",
        "cwd": "/",
        "user": "nobody",
        "lifecycle": {"quiet_command": "echo bye from $(id -un)"},
    }
    application.release("v1")
    application.start("v1")
    pid = application.pid_of("side")
    assert status_of(pid)["Uid"].split() == ["65534"] * 4
    wait_until(lambda: "I am nobody at /nonexistent" in application.logged("side"), "it says who it is")
    assert application.daemon is not None
    application.daemon.kill()
    application.start_daemon()
    assert application.pid_of("side") == pid
    application.run("stop")
    assert "bye from nobody" in application.logged("side")
    application.shutdown()


def test_what_is_not_possible_here_is_found_by_validate_and_fails_the_deploy(application: Application) -> None:
    application.release("v1")
    application.release("v2")
    application.start("v1")
    application.processes["web"]["user"] = "no-such-user"
    application.write_config()
    told = " ".join(application.run("validate", expect=1).stdout.split())
    assert "processes.web.user: there is no user no-such-user on this machine" in told
    assert "fix: run useradd --system no-such-user, or name another" in told
    failure = " ".join(application.deploy("v2", expect=1).stderr.split())
    assert "there is no user no-such-user on this machine" in failure
    assert application.serving()[0] == "v1"
