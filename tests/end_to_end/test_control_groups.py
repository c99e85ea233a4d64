"""A process in a control group of its own, through a crash of the daemon and to its end."""

from __future__ import annotations

from pathlib import Path

from tests.process.test_control_groups import group_of, needs_groups
from tests.support.application import Application


def with_group(application: Application) -> None:
    application.processes["side"] = {"command": "exec sleep 1000", "cwd": "/", "cgroup": True}
    application.release("v1")
    application.start("v1")


@needs_groups
def test_a_group_is_kept_by_the_next_daemon_and_removed_with_its_process(application: Application) -> None:
    with_group(application)
    pid = application.pid_of("side")
    group = group_of(pid)
    assert group.name.startswith(f"rollbridge-{application.name}-")
    assert application.daemon is not None
    application.daemon.kill()
    application.start_daemon()
    assert application.pid_of("side") == pid
    assert group_of(pid) == group
    application.shutdown()
    assert not group.exists()
    assert not list(group.parent.glob(f"rollbridge-{application.name}-*"))


def test_a_limit_that_cannot_be_kept_is_said_and_the_process_runs(application: Application) -> None:
    application.processes["side"] = {"command": "exec sleep 1000", "cwd": "/", "memory_max": "64MiB", "pids_max": 20}
    application.release("v1")
    application.start("v1")
    told = application.events("control group not complete")
    directory = group_of(application.pid_of("side")) if not told else Path("/nonexistent")
    if told:
        assert len(told) == 1
        assert "Delegate=yes" in told[0]["data"]["reason"]
    else:
        assert (directory / "pids.max").read_text().strip() == "20"
        assert (directory / "memory.max").read_text().strip() == str(64 * 2**20)
