"""Ends process trees: asks, waits until they are gone, kills, verifies, and tells why something still lives.

Whom a signal reaches is decided by identity (pid and start time, through a pidfd), never by a number alone.
"""

from __future__ import annotations

import errno
import os
import pwd
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rollbridge.process.identity import read_stat_fields, signal_identity
from rollbridge.process.table import ProcessRow, ProcessTable, read_command, scan_processes

KILL_SECONDS: Final = 10.0  # what survives SIGKILL for so long hangs in the kernel
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Target:
    """One tree to end. ``members`` finds what lives of it, given what was known of it before (pid to start time)."""

    name: str
    members: Callable[[ProcessTable, Mapping[int, int]], Sequence[ProcessRow]]
    stop_signal: int
    grace_seconds: float  # from the stop signal to SIGKILL


@dataclass(frozen=True, slots=True)
class Survivor:
    """A process that could not be ended, and why."""

    target: str
    pid: int
    command: str
    why: str

    @property
    def text(self) -> str:
        """Return the line for people; ``target`` may name the process already."""
        is_named = self.target.endswith(f"(pid {self.pid})")
        return f"{self.target}: {'' if is_named else f'pid {self.pid}: '}{self.why}."

    def document(self) -> dict[str, object]:
        return {"target": self.target, "pid": self.pid, "command": self.command, "why": self.why}


@dataclass(slots=True)
class _Ending:
    """How far one target's end is."""

    target: Target
    known: dict[int, int] = field(default_factory=dict)
    asked: dict[int, int] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)  # who may not be signalled, and why
    left: list[ProcessRow] = field(default_factory=list)

    def step(self, table: ProcessTable, seconds: float) -> bool:
        """Signal who is due ``seconds`` after the beginning; return whether there is nothing left to wait for."""
        self.left = list(self.target.members(table, self.known))
        self.known.update((row.pid, row.start_ticks) for row in self.left)
        is_killing = seconds >= self.target.grace_seconds
        for row in self.left:
            if is_killing:
                self._signal(table, row, signal.SIGKILL)
            elif self.asked.get(row.pid) != row.start_ticks:
                self.asked[row.pid] = row.start_ticks
                self._signal(table, row, self.target.stop_signal)
                if row.is_suspended:  # it sees nothing but SIGKILL until it is continued
                    self._signal(table, row, signal.SIGCONT)
        is_hopeless = all(row.pid in self.refused for row in self.left)
        return is_hopeless or seconds >= self.target.grace_seconds + KILL_SECONDS

    def _signal(self, table: ProcessTable, row: ProcessRow, signum: int) -> None:
        try:
            signal_identity(table.identity(row), signum)
            self.refused.pop(row.pid, None)
        except OSError as error:
            self.refused[row.pid] = _refusal(error, row.pid)


def end_trees(targets: Sequence[Target]) -> list[Survivor]:
    """End all ``targets`` side by side and return what still lives at the end, empty when all is well."""
    endings = [_Ending(target) for target in targets]
    began = time.monotonic()
    pending = endings
    while pending:
        table = scan_processes()
        seconds = time.monotonic() - began
        pending = [ending for ending in pending if not ending.step(table, seconds)]
        if pending:
            time.sleep(_POLL_SECONDS)
    return [
        Survivor(ending.target.name, row.pid, read_command(row.pid), ending.refused.get(row.pid) or _why_alive(row.pid))
        for ending in endings
        for row in ending.left
    ]


def _refusal(error: OSError, pid: int) -> str:
    if error.errno != errno.EPERM:
        return f"it cannot be signalled: {error.strerror}"
    return f"it runs as user {user_of(pid)}, whom this user may not signal: end it as root with `kill {pid}`"


def user_of(pid: int) -> str:
    """Return the name of the user ``pid`` runs as, or the number when it has none."""
    try:
        uid = os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116
    except OSError:
        return "unknown"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _why_alive(pid: int) -> str:
    fields = read_stat_fields(pid)
    if fields and fields[0] == b"D":
        where = ""
        try:
            where = Path(f"/proc/{pid}/wchan").read_text(encoding="ascii").strip()
        except OSError:
            where = ""
        return f"it hangs in the kernel{f' ({where})' if where not in ('', '0') else ''}: SIGKILL waits for that to end"
    return f"it survived SIGKILL for {KILL_SECONDS:g} s"
