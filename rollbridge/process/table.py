"""One look at /proc: every process with parent, group, session, start time and resident memory.

A look costs one small read per process (about 10 µs each), so callers share one where they can.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rollbridge.process.identity import ProcessIdentity, has_ended, read_boot_id, read_stat_fields

KERNEL_THREAD_FLAG = 0x00200000  # PF_KTHREAD in linux/sched.h
PAGE_BYTES = resource.getpagesize()
COMMAND_LIMIT = 200  # characters of a command line shown in status; the rest says nothing new


@dataclass(frozen=True, slots=True)
class ProcessRow:
    pid: int
    parent: int
    group: int
    session: int
    start_ticks: int
    rss_bytes: int
    is_suspended: bool  # stopped by SIGSTOP or SIGTSTP: it cannot react before SIGCONT


@dataclass(slots=True)
class ProcessTable:
    """Living user processes by pid; zombies and kernel threads are left out."""

    rows: Mapping[int, ProcessRow]
    boot_id: str
    marks: dict[int, str | None] = field(default_factory=dict)  # environment marks read so far
    children: dict[int, list[ProcessRow]] = field(default_factory=dict)
    sessions: dict[int, list[ProcessRow]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows.values():
            self.children.setdefault(row.parent, []).append(row)
            self.sessions.setdefault(row.session, []).append(row)

    def identity(self, row: ProcessRow) -> ProcessIdentity:
        return ProcessIdentity(row.pid, row.start_ticks, self.boot_id)

    def mark(self, pid: int, variable: str) -> str | None:
        """Value of ``variable`` in the environment ``pid`` was started with; None: absent or not readable."""
        if pid not in self.marks:
            self.marks[pid] = read_environment_value(pid, variable)
        return self.marks[pid]

    def ancestors(self, pid: int) -> Iterator[int]:
        """Pids above ``pid``, nearest first."""
        seen: set[int] = set()
        row = self.rows.get(pid)
        while row is not None and row.parent not in seen:
            seen.add(row.parent)
            yield row.parent
            row = self.rows.get(row.parent)


def scan_processes() -> ProcessTable:
    """Read the process table now."""
    rows: dict[int, ProcessRow] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  (twice as fast as iterating over paths)
        if name.isdecimal():
            fields = read_stat_fields(int(name))
            if not fields or int(fields[6]) & KERNEL_THREAD_FLAG or has_ended(fields):
                continue
            pid = int(name)
            rows[pid] = ProcessRow(
                pid=pid,
                parent=int(fields[1]),
                group=int(fields[2]),
                session=int(fields[3]),
                start_ticks=int(fields[19]),
                rss_bytes=int(fields[21]) * PAGE_BYTES,
                is_suspended=fields[0] in (b"T", b"t"),
            )
    return ProcessTable(rows, read_boot_id())


def read_environment(pid: int) -> dict[str, str]:
    """The environment ``pid`` was started with; empty when it is gone, or another user's."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            data = file.read()
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in data.split(b"\0"))
    return {name: value for name, equals, value in pairs if equals}


def read_environment_value(pid: int, variable: str) -> str | None:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            data = file.read()
    except OSError:  # gone, or another user's
        return None
    start = data.find(b"\0" + variable.encode() + b"=")
    if data.startswith(variable.encode() + b"="):
        start = -1
    elif start < 0:
        return None
    begin = start + 1 + len(variable) + 1
    end = data.find(b"\0", begin)
    return os.fsdecode(data[begin : end if end >= 0 else len(data)])


def read_command(pid: int) -> str:
    """The command line of ``pid`` for people, shortened; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            data = file.read(4 * COMMAND_LIMIT)
    except OSError:
        return ""
    text = data.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    return text if len(text) <= COMMAND_LIMIT else text[: COMMAND_LIMIT - 1] + "…"


def read_pss_bytes(pid: int) -> int | None:
    """Proportional set size of ``pid``: shared pages counted by their share; None when not readable."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None
