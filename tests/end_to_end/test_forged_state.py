"""A state file that names pids of strangers: whatever is asked of rollbridge, they are never signalled."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rollbridge.process.identity import ProcessIdentity, read_identity
from tests.support.application import Application
from tests.support.processes import is_running, marked
from tests.support.waiting import wait_until

OTHER_BOOT = "00000000-0000-0000-0000-000000000000"
# Notes every signal that can be noted; SIGKILL shows by its absence.
STRANGER = "trap 'echo TERM >> signals' TERM; trap 'echo HUP >> signals' HUP; trap 'echo INT >> signals' INT; "
LOOP = "echo up >> signals; while :; do sleep 0.05; done"


class Stranger:
    """A process that is none of rollbridge's, and keeps account of the signals it gets."""

    def __init__(self, directory: Path, is_leader: bool, environ: dict[str, str]) -> None:
        directory.mkdir()
        self.signals_path = directory / "signals"
        self.process = subprocess.Popen(
            ["sh", "-c", STRANGER + LOOP],
            cwd=directory,
            start_new_session=is_leader,
            env={"PATH": os.environ["PATH"], **environ},
        )
        wait_until(self.signals_path.exists, "the stranger is up")
        found = read_identity(self.process.pid)
        assert found is not None
        self.identity: ProcessIdentity = found

    def assert_unharmed(self) -> None:
        assert self.process.poll() is None
        assert self.signals_path.read_text() == "up\n"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


Forge = Callable[[dict[str, Any], ProcessIdentity], None]


def every_record(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for release in state["releases"]:
        yield from release["processes"]
    yield from [*state["services"], *state["singletons"], *state["workers"]]


def forged(state: dict[str, Any], stranger: ProcessIdentity, ticks: int, boot_id: str) -> None:
    for record in every_record(state):
        if record["pid"] is not None:
            record.update(pid=stranger.pid, start_ticks=ticks)
            if "boot_id" in record:
                record["boot_id"] = boot_id
    left = {"id": "left", "release_id": None, "instance": "e" * 32, "pid": stranger.pid, "start_ticks": ticks}
    state["orphans"].append({**left, "boot_id": boot_id})


def wrong_ticks(state: dict[str, Any], stranger: ProcessIdentity) -> None:
    forged(state, stranger, stranger.start_ticks + 1, stranger.boot_id)


def wrong_boot(state: dict[str, Any], stranger: ProcessIdentity) -> None:
    forged(state, stranger, stranger.start_ticks, OTHER_BOOT)


def no_ticks(state: dict[str, Any], stranger: ProcessIdentity) -> None:
    for record in every_record(state):
        record.update(pid=stranger.pid, start_ticks=None)


def all_right(state: dict[str, Any], stranger: ProcessIdentity) -> None:
    """Somebody has looked the start time up."""
    forged(state, stranger, stranger.start_ticks, stranger.boot_id)


CASES = [
    pytest.param(wrong_ticks, False, {}, id="another start time"),
    pytest.param(wrong_boot, True, {}, id="another boot"),
    pytest.param(no_ticks, True, {}, id="no start time"),
    pytest.param(all_right, False, {}, id="the right start time, of one that leads no session"),
    pytest.param(all_right, True, {"ROLLBRIDGE_INSTANCE": "f" * 32}, id="the right start time, of another start"),
]


@pytest.fixture
def with_everything(application: Application) -> Application:
    application.processes["jobs"] = application.worker()
    application.processes["cron"] = application.worker("singleton")
    application.processes["broker"] = application.worker("service")
    for name in ("v1", "v2"):
        application.release(name)
    application.config["legacy_takeover"] = {"screens": ["no-such-screen"], "force_stop_timeout": "1s"}
    application.start("v1")
    return application


def crash(application: Application) -> None:
    assert application.daemon is not None
    pids = {str(one["pid"]) for one in application.all_process_statuses()}
    wait_until(lambda: all(pid in application.state_path.read_text() for pid in pids), "all of it is written down")
    application.daemon.kill()
    application.daemon = None


@pytest.fixture
def make_stranger(tmp_path: Path) -> Iterator[Callable[[bool, dict[str, str]], Stranger]]:
    made: list[Stranger] = []

    def make(is_leader: bool, environ: dict[str, str]) -> Stranger:
        made.append(Stranger(tmp_path / f"stranger-{len(made)}", is_leader, environ))
        return made[-1]

    yield make
    for stranger in made:
        stranger.end()


@pytest.mark.parametrize(("forge", "is_leader", "environ"), CASES)
def test_no_command_of_a_running_daemon_signals_a_stranger(
    with_everything: Application,
    make_stranger: Callable[[bool, dict[str, str]], Stranger],
    forge: Forge,
    is_leader: bool,
    environ: dict[str, str],
) -> None:
    application = with_everything
    crash(application)
    stranger = make_stranger(is_leader, environ)
    application.forge_state(lambda state: forge(state, stranger.identity))
    application.start_daemon()
    stranger.assert_unharmed()
    assert stranger.process.pid not in [one["pid"] for one in application.all_process_statuses()]
    assert stranger.process.pid not in [one["pid"] for one in application.status()["orphans"]]
    if application.status()["active_release_id"] is None:  # of another boot nothing runs any more
        application.deploy("v1")
    for arguments in (
        ("restart", "--policy", "companion"),
        ("restart", "--process", "broker"),
        application.deploy_arguments("v2"),
        ("rollback",),
        ("stop",),
        application.deploy_arguments("v2"),
    ):
        application.run(*arguments)
        stranger.assert_unharmed()
    assert application.daemon is not None
    os.kill(application.daemon.pid, signal.SIGTERM)
    application.wait_daemon_exit()
    stranger.assert_unharmed()
    application.start_daemon("--resume")
    application.run("shutdown")
    stranger.assert_unharmed()


@pytest.mark.parametrize(("forge", "is_leader", "environ"), CASES)
@pytest.mark.parametrize("command", [("recover", "--force"), ("predeploy-cleanup",), ("recover", "--heal")])
def test_no_command_without_a_daemon_signals_a_stranger(
    with_everything: Application,
    make_stranger: Callable[[bool, dict[str, str]], Stranger],
    forge: Forge,
    is_leader: bool,
    environ: dict[str, str],
    command: tuple[str, ...],
) -> None:
    application = with_everything
    crash(application)
    stranger = make_stranger(is_leader, environ)
    application.forge_state(lambda state: forge(state, stranger.identity))
    listed = application.run("recover", "--json").json["orphans"]
    assert stranger.process.pid not in [pid for one in listed for pid in one["pids"]]
    application.run(*command, expect=None)
    stranger.assert_unharmed()
    if command == ("recover", "--force"):
        assert [line for line in marked(application.mark) if is_running(line.pid)] == []
        stranger.assert_unharmed()
    else:
        application.run("shutdown", expect=None)
        stranger.assert_unharmed()
