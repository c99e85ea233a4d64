"""Which condition a daemon is in."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from rollbridge.daemon.lock import DaemonLock
from rollbridge.takeover.presence import (
    Observation,
    Presence,
    activity,
    advice,
    age_of,
    find_holder,
    is_suspended,
    judge,
    lock_holder,
)

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


def test_a_living_process_has_an_age_and_moves() -> None:
    before = activity(os.getpid())
    for _ in range(300):
        Path("/proc/self/stat").read_bytes()
        os.sched_yield()
    deadline_free = sum(number * number for number in range(300_000))
    assert deadline_free and before is not None
    assert (age_of(os.getpid()) or 0) > 0
    assert not is_suspended(os.getpid())


def test_nobody_has_no_activity_and_no_age() -> None:
    assert activity(None) is None
    assert age_of(None) is None
    assert activity(2**22 + 1) is None
