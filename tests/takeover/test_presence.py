"""Which condition a daemon is in."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollbridge.config.reach import ClientSettings, ControlConfig
from rollbridge.daemon.lock import DaemonLock
from rollbridge.takeover.presence import (
    Activity,
    Observation,
    Presence,
    activity,
    advice,
    age_of,
    find_holder,
    has_moved,
    is_suspended,
    judge,
    lock_holder,
    observe,
)

# Holds the lock, accepts, and never answers: it sleeps, or it works.
SILENT = """
import socket, sys, time
from rollbridge.daemon.lock import DaemonLock
directory, path, is_working = sys.argv[1], sys.argv[2], sys.argv[3] == "works"
lock = DaemonLock(directory)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
print("ready", flush=True)
while True:
    time.sleep(0.001) if is_working else time.sleep(1000)
"""

LOCKS = """\
1: FLOCK  ADVISORY  WRITE 3127 08:01:4711 0 EOF
1: -> FLOCK  ADVISORY  WRITE 3200 08:01:4711 0 EOF
2: POSIX  ADVISORY  WRITE 99 08:01:4712 0 EOF
3: FLOCK  ADVISORY  WRITE 42 00:1b:4712 0 EOF
nonsense
"""


@pytest.mark.parametrize(
    ("seen", "presence"),
    [
        (Observation(answer={}, holder=5), Presence.ANSWERS),
        (Observation(answer={}), Presence.ANSWERS),
        (Observation(holder=5, is_suspended=True), Presence.SUSPENDED),
        (Observation(is_silent=True, holder=5, has_moved=True), Presence.BUSY),
        (Observation(is_silent=True, holder=5), Presence.STUCK),
        (Observation(is_silent=True), Presence.STUCK),
        (Observation(holder=5), Presence.STARTING),
        (Observation(), Presence.NONE),
    ],
)
def test_each_observation_means_one_thing(seen: Observation, presence: Presence) -> None:
    assert judge(seen) is presence
    if presence is not Presence.ANSWERS:
        assert advice(presence, seen, "/run/x.sock").endswith(".")


def test_the_holder_of_a_lock_is_found_by_device_and_inode() -> None:
    assert find_holder(LOCKS, "08:01", 4711, 0) == 3127
    assert find_holder(LOCKS, "08:01", 4712, 0) is None
    assert find_holder("", "08:01", 4711, 0) is None


def test_where_the_device_differs_the_written_pid_decides() -> None:
    assert find_holder(LOCKS, "08:02", 4712, 42) == 42
    assert find_holder(LOCKS, "08:02", 4712, 43) is None


def test_a_lock_is_seen_without_being_taken(tmp_path: Path) -> None:
    assert lock_holder(str(tmp_path)) is None
    lock = DaemonLock(str(tmp_path))
    assert lock_holder(str(tmp_path)) == os.getpid()
    lock.release()
    assert lock_holder(str(tmp_path)) is None
    with (tmp_path / "daemon.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # looking did not take it


def test_a_living_process_has_an_age_and_some_activity() -> None:
    assert (age_of(os.getpid()) or 0) > 0
    found = activity(os.getpid())
    assert found is not None and found.switches > 0
    assert not is_suspended(os.getpid())


def test_a_process_that_fell_asleep_meanwhile_has_not_moved() -> None:
    assert not has_moved(Activity(5, 10), Activity(5, 12))
    assert has_moved(Activity(5, 10), Activity(5, 13))
    assert has_moved(Activity(5, 10), Activity(6, 10))
    assert not has_moved(Activity(5, 10), None)
    assert not has_moved(None, Activity(5, 10))


def test_nobody_has_no_activity_and_no_age() -> None:
    assert activity(None) is None
    assert age_of(None) is None
    assert activity(2**22 + 1) is None


@pytest.fixture
def settings(tmp_path: Path) -> ClientSettings:
    control = ControlConfig(str(tmp_path / "c.sock"), 0o600, None, None)
    return ClientSettings("app", str(tmp_path), str(tmp_path / "state.json"), control)


@pytest.fixture
def silent(settings: ClientSettings, request: pytest.FixtureRequest) -> Iterator[int]:
    argv = [sys.executable, "-c", SILENT, settings.runtime_dir, settings.control.path, request.param]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


@pytest.mark.parametrize(
    ("silent", "presence"), [("sleeps", Presence.STUCK), ("works", Presence.BUSY)], indirect=["silent"]
)
def test_a_silent_daemon_is_busy_when_it_works_and_stuck_when_it_does_not(
    silent: int, presence: Presence, settings: ClientSettings
) -> None:
    seen = observe(settings, answer_seconds=0.3)
    assert seen.holder == silent
    assert judge(seen) is presence
    assert str(silent) in advice(presence, seen, settings.control.path)


@pytest.mark.parametrize("silent", ["works"], indirect=True)
def test_a_suspended_daemon_is_known_without_asking_it(silent: int, settings: ClientSettings) -> None:
    os.kill(silent, signal.SIGSTOP)
    os.waitid(os.P_PID, silent, os.WSTOPPED | os.WNOWAIT)
    assert judge(observe(settings, answer_seconds=60)) is Presence.SUSPENDED


@pytest.mark.parametrize("silent", ["sleeps"], indirect=True)
def test_a_daemon_without_a_socket_is_starting(silent: int, settings: ClientSettings) -> None:
    Path(settings.control.path).unlink()
    assert judge(observe(settings)) is Presence.STARTING


def test_without_lock_and_socket_there_is_none(settings: ClientSettings) -> None:
    assert judge(observe(settings)) is Presence.NONE
