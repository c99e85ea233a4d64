"""Whether there is a daemon, and in which condition: answering, starting, busy, suspended, stuck, or none.

Nothing is taken or changed by looking: not the lock (a daemon that starts in that moment would be refused), nor
anything else.
"""

from __future__ import annotations

import contextlib
import enum
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rollbridge.config.reach import ClientSettings
from rollbridge.control.client import ControlClient, ControlRefused, DaemonSilent, NoDaemon
from rollbridge.daemon.lock import LOCK_NAME
from rollbridge.process.identity import read_stat_fields, read_ticks_now

Answer = dict[str, object]

ANSWER_SECONDS: Final = 10.0  # a ping is answered in milliseconds; a machine that swaps may take seconds
_IDLE_SWITCHES: Final = 2
STUCK_SECONDS: Final = 300.0  # a daemon that burns time without an answer for so long is not busy any more


class Presence(enum.Enum):
    ANSWERS = "answers"
    STARTING = "starting"  # holds the lock and has no control socket yet
    SUSPENDED = "suspended"  # stopped by a signal, or by a debugger: it cannot answer
    BUSY = "busy"  # accepts, is silent, and does something
    STUCK = "stuck"  # accepts, is silent, and does nothing
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Activity:
    """What a process has done since it was started."""

    cpu_ticks: int
    switches: int  # a loop that turns gives up the processor at least once a second


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen. ``holder`` is the pid that has the daemon's lock; ``answer`` that of a ping."""

    answer: Answer | None = None
    is_silent: bool = False  # the socket accepted, and no answer came
    holder: int | None = None
    is_suspended: bool = False
    has_moved: bool = False  # it did something while we waited
    age_seconds: float | None = None


def judge(seen: Observation) -> Presence:
    """Return what ``seen`` means."""
    if seen.answer is not None:
        return Presence.ANSWERS
    if seen.is_suspended:
        return Presence.SUSPENDED
    if seen.is_silent:
        return Presence.BUSY if seen.has_moved else Presence.STUCK
    return Presence.NONE if seen.holder is None else Presence.STARTING


def observe(settings: ClientSettings, answer_seconds: float = ANSWER_SECONDS) -> Observation:
    """Look for the daemon of ``settings``.

    Raises ControlError when its socket may not be used, or is not to be trusted.
    """
    holder = lock_holder(settings.runtime_dir)
    if holder is not None and is_suspended(holder):
        return Observation(holder=holder, is_suspended=True, age_seconds=age_of(holder))
    before = activity(holder)
    try:
        with ControlClient(settings.control.path, settings.control.owner) as client:
            answer = client.request({"command": "ping"}, timeout=answer_seconds)
        _check_application(answer, settings)
        return Observation(answer=answer, holder=holder)
    except DaemonSilent:
        return Observation(
            is_silent=True,
            holder=holder,
            has_moved=has_moved(before, activity(holder)),
            age_seconds=age_of(holder),
        )
    except NoDaemon:
        # Asked again: it may have ended, or begun, since.
        holder = lock_holder(settings.runtime_dir)
        return Observation(holder=holder, age_seconds=age_of(holder))


def _check_application(answer: Answer, settings: ClientSettings) -> None:
    """Raise ControlRefused when the daemon of another application answers: ours may be gone all the same."""
    if answer.get("application") != settings.application:
        raise ControlRefused(
            f"control socket {settings.control.path} belongs to the daemon of application "
            f"{answer.get('application')}, not {settings.application}. Give each its own control.path."
        )


def lock_holder(runtime_dir: str) -> int | None:
    """Return the pid that holds the daemon's lock, from the kernel's list; None when nobody does."""
    path = Path(runtime_dir, LOCK_NAME)
    try:
        found = path.stat()
        locks = Path("/proc/locks").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    written = 0
    with contextlib.suppress(OSError, ValueError):
        written = int(path.read_text(encoding="ascii")[:20])
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    return find_holder(locks, device, found.st_ino, written)


def find_holder(locks: str, device: str, inode: int, written: int) -> int | None:
    """Return who holds the flock on ``inode`` according to the text of /proc/locks.

    On some file systems the device listed there is not the one that stat tells: then the pid that is
    ``written`` in the lock file decides whether the line is about that file.
    """
    for line in locks.splitlines():
        fields = line.split()
        if len(fields) < 6 or fields[1] != "FLOCK":  # a waiter's line has an arrow there
            continue
        listed_device, _, listed_inode = fields[5].rpartition(":")
        if listed_inode != str(inode) or not fields[4].isdecimal():
            continue
        pid = int(fields[4])
        if listed_device == device or pid == written:
            return pid
    return None


def is_suspended(pid: int) -> bool:
    fields = read_stat_fields(pid)
    return bool(fields) and fields is not None and fields[0] in (b"T", b"t")


def activity(pid: int | None) -> Activity | None:
    """Return what ``pid`` has done since its start; None when it cannot be told."""
    fields = read_stat_fields(pid) if pid is not None else None
    if not fields:
        return None
    switches = 0
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(("voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")):
                switches += int(line.split()[1])
    return Activity(int(fields[11]) + int(fields[12]), switches)


def has_moved(before: Activity | None, after: Activity | None) -> bool:
    """Whether a process did something in between: a switch or two come of falling asleep, and of being looked at."""
    if before is None or after is None:
        return False
    return after.cpu_ticks > before.cpu_ticks or after.switches > before.switches + _IDLE_SWITCHES


def age_of(pid: int | None) -> float | None:
    """Return how many seconds ago ``pid`` was started."""
    fields = read_stat_fields(pid) if pid is not None else None
    return (read_ticks_now() - int(fields[19])) / os.sysconf("SC_CLK_TCK") if fields else None


def advice(presence: Presence, seen: Observation, control_path: str) -> str:
    """Return what is wrong with a daemon that does not answer, and what to do, in complete sentences."""
    who = f"the daemon (pid {seen.holder})" if seen.holder is not None else "the daemon"
    pid = seen.holder if seen.holder is not None else "its pid"
    if presence is Presence.SUSPENDED:
        return (
            f"{who} is suspended (SIGSTOP, or a debugger): it manages nothing until `kill -CONT {pid}`. "
            f"The proxy workers go on serving."
        )
    if presence is Presence.STUCK:
        return (
            f"{who} is stuck: control socket {control_path} accepts, nobody answers. The proxy workers go on serving. "
            f"`kill -9 {pid}` and the next `rollbridge recover --heal` take over what runs, without a restart."
        )
    if presence is Presence.BUSY:
        return f"{who} is busy: it works, and did not answer within {ANSWER_SECONDS:g} s. Look again in a moment."
    if presence is Presence.STARTING:
        since = f" since {seen.age_seconds:.0f} s" if seen.age_seconds is not None else ""
        return f"{who} is starting{since}. Its log tells what it waits for."
    return "no daemon runs. `rollbridge recover --heal` brings it back."
