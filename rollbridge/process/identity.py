"""Who a pid is. A number alone is not an identity: pids are reused, so every signal goes through here.

A process is known by pid, start time (clock ticks since boot, field 22 of /proc/<pid>/stat) and boot id.
What cannot be verified is treated as somebody else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STAT_FIELDS_USED = 22  # from the state to the resident size; splitting off the other thirty takes time in every scan


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    pid: int
    start_ticks: int
    boot_id: str


def read_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def read_stat_fields(pid: int) -> list[bytes] | None:
    """Fields of /proc/<pid>/stat from the third (state) on; None when there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(fd, 4096)
    except OSError:  # ESRCH: it went away between open and read
        return None
    finally:
        os.close(fd)
    # The name may itself hold blanks and parentheses; the last ")" ends it (proc(5)).
    return data[data.rfind(b")") + 2 :].split(None, STAT_FIELDS_USED)


def has_ended(fields: list[bytes]) -> bool:
    """Whether stat fields (from state on) are of a process that only waits to be reaped.

    A process whose first thread ended shows as a zombie while its other threads run on.
    """
    return fields[0] in (b"Z", b"X") and int(fields[17]) <= 1


def read_start_ticks(pid: int) -> int | None:
    """Start time of ``pid`` in clock ticks since boot; None when no such process exists."""
    fields = read_stat_fields(pid)
    return int(fields[19]) if fields else None


def read_ticks_now() -> int:
    """The present moment in the unit and on the clock of start times."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def read_identity(pid: int) -> ProcessIdentity | None:
    start_ticks = read_start_ticks(pid)
    return None if start_ticks is None else ProcessIdentity(pid, start_ticks, read_boot_id())


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether exactly this process runs; a zombie, or a stranger with its pid, does not count."""
    fields = read_stat_fields(identity.pid)
    if not fields or int(fields[19]) != identity.start_ticks or has_ended(fields):
        return False
    return identity.boot_id == read_boot_id()


def read_parent(pid: int) -> int | None:
    fields = read_stat_fields(pid)
    return int(fields[1]) if fields else None


@contextlib.contextmanager
def held_pidfd(identity: ProcessIdentity) -> Iterator[int | None]:
    """A pidfd that is certainly of ``identity``; None when that process is gone or is somebody else."""
    fd = open_pidfd(identity)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def open_pidfd(identity: ProcessIdentity) -> int | None:
    """Open a pidfd of ``identity``; None when it is gone or is somebody else. Other errors are raised."""
    try:
        fd = os.pidfd_open(identity.pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL):
            return None
        raise
    # Checked after opening: from here on the descriptor cannot come to mean another process.
    if read_start_ticks(identity.pid) != identity.start_ticks or read_boot_id() != identity.boot_id:
        os.close(fd)
        return None
    return fd


def signal_identity(identity: ProcessIdentity, signum: int) -> bool:
    """Send ``signum`` to exactly this process; False when it is gone or is somebody else.

    Raises PermissionError when it changed to a user that we may not signal.
    """
    if identity.pid <= 1 or identity.pid == os.getpid():
        return False
    with held_pidfd(identity) as fd:
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, signum)
        except ProcessLookupError:
            return False
    return True
