"""Which processes belong to what the first deploy replaces, and why; who is never touched. Pure.

A process is meant when a screen session, a pid file or a command line says so, or when it descends from one that is.
Left alone, whatever says so: the command that asks and its ancestors, the daemon and what it manages, pid 1.
Kernel threads are not in the table at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rollbridge.config.model import LegacyTakeoverConfig
from rollbridge.process.table import ProcessRow, ProcessTable

# How much later than its pid file's last change a process may have been started: clocks are compared.
STALE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class PidFile:
    """What a pid file says; ``written_at`` is epoch seconds."""

    path: str
    pid: int
    written_at: float


@dataclass(frozen=True, slots=True)
class Sighting:
    """The machine at one moment. ``commands`` are whole command lines, words joined by blanks."""

    table: ProcessTable
    commands: Mapping[int, str]
    screens: Sequence[tuple[str, int]] = ()  # session name and pid of its server
    pid_files: Sequence[PidFile] = ()
    boot_at: float = 0.0  # epoch seconds
    ticks_per_second: int = 100


@dataclass(frozen=True, slots=True)
class Member:
    """A process that is to be stopped. ``depth`` is 0 for one that is meant itself, more for its descendants."""

    row: ProcessRow
    why: str
    depth: int


@dataclass(frozen=True, slots=True)
class Spared:
    """A process that is meant and left alone. ``is_named``: a screen or a pid file names exactly this one."""

    pid: int
    meant_by: str
    why: str
    is_named: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """``members`` in the order in which they are signalled: each parent before its children."""

    members: tuple[Member, ...]
    spared: tuple[Spared, ...]

    @property
    def identities(self) -> dict[int, int]:
        return {member.row.pid: member.row.start_ticks for member in self.members}


def plan_stop(seen: Sighting, legacy: LegacyTakeoverConfig, why_left_alone: Callable[[int], str]) -> Plan:
    """Return what ``legacy`` means. ``why_left_alone`` is empty for a process that may be stopped."""
    roots: dict[int, str] = {}
    spared: list[Spared] = []
    for pid, meant_by, is_named, objection in _meant(seen, legacy):
        why = objection or why_left_alone(pid)
        if why:
            spared.append(Spared(pid, meant_by, why, is_named and not objection))
        else:
            roots.setdefault(pid, meant_by)
    members: dict[int, Member] = {}
    # From the top: what is below another that is meant is told as its descendant's place in the tree.
    for pid in sorted(roots, key=lambda one: (_depth(seen.table, one), one)):
        _add(seen.table, pid, roots, members, why_left_alone, 0)
    return Plan(tuple(members.values()), tuple(spared))


def _meant(seen: Sighting, legacy: LegacyTakeoverConfig) -> list[tuple[int, str, bool, str]]:
    """Return pid, what means it, whether it is named, and why it is not who was meant after all."""
    found: list[tuple[int, str, bool, str]] = []
    for wanted in legacy.screens:
        found += [
            (pid, f'screen "{wanted}"', True, "")
            for name, pid in seen.screens
            if pid in seen.table.rows and wanted in (name, f"{pid}.{name}")
        ]
    for file in seen.pid_files:
        row = seen.table.rows.get(file.pid)
        if row is not None:
            found.append((file.pid, f"pid file {file.path}", True, _stale(seen, file, row)))
    for process in legacy.processes:
        found += [
            (pid, f'"{process.name}": its command line', False, "")
            for pid, command in sorted(seen.commands.items())
            if pid in seen.table.rows and all(text in command for text in process.includes)
        ]
    return found


def _stale(seen: Sighting, file: PidFile, row: ProcessRow) -> str:
    started_at = seen.boot_at + row.start_ticks / seen.ticks_per_second
    if started_at > file.written_at + STALE_SECONDS:
        return "it was started after the file was written: the number is another process's by now"
    return ""


def _depth(table: ProcessTable, pid: int) -> int:
    return sum(1 for _ in table.ancestors(pid))


def _add(
    table: ProcessTable,
    pid: int,
    roots: Mapping[int, str],
    members: dict[int, Member],
    why_left_alone: Callable[[int], str],
    depth: int,
) -> None:
    pending = [(pid, depth)]
    while pending:
        one, level = pending.pop()
        row = table.rows[one]
        if one in members or (level and why_left_alone(one)):
            continue
        members[one] = Member(row, roots.get(one) or f"child of {row.parent}", level)
        below = sorted(table.children.get(one, ()), key=lambda child: (child.start_ticks, child.pid), reverse=True)
        pending += [(child.pid, level + 1) for child in below]


def still_there(
    table: ProcessTable, known: Mapping[int, int], why_left_alone: Callable[[int], str]
) -> list[ProcessRow]:
    """Return what lives of ``known`` (pid to start time), what they have forked since, and who is left in a session
    that one of them leads; each parent before its children."""
    alive: dict[int, ProcessRow] = {}
    pending = [row for pid, ticks in known.items() if (row := table.rows.get(pid)) and row.start_ticks == ticks]
    for leader, ticks in known.items():
        holder = table.rows.get(leader)
        if holder is None or holder.start_ticks == ticks:  # the number of the session is not somebody else's by now
            pending += [row for row in table.sessions.get(leader, ()) if row.start_ticks >= ticks]
    while pending:
        row = pending.pop()
        if row.pid in alive or why_left_alone(row.pid):
            continue
        alive[row.pid] = row
        pending += table.children.get(row.pid, ())
    return sorted(alive.values(), key=lambda row: (_depth(table, row.pid), row.start_ticks, row.pid))


def find_again(
    before: Sighting, stopped: Sequence[Member], after: Sighting, why_left_alone: Callable[[int], str]
) -> list[int]:
    """Return who has the command line and the parent of a process that was stopped: somebody has started it again."""
    ended = {(before.commands[one.row.pid], one.row.parent) for one in stopped if before.commands.get(one.row.pid)}
    known = {one.row.pid: one.row.start_ticks for one in stopped}
    return [
        row.pid
        for row in after.table.rows.values()
        if (after.commands.get(row.pid, ""), row.parent) in ended
        and known.get(row.pid) != row.start_ticks
        and row.pid not in before.table.rows
        and not why_left_alone(row.pid)
    ]


@dataclass(slots=True)
class Protection:
    """Why processes are left alone, by pid; what a daemon manages is found by ``is_managed`` and by descent."""

    table: ProcessTable
    named: Mapping[int, str]
    is_managed: Callable[[int], bool]
    is_elsewhere: Callable[[int], bool]  # in a container of its own
    _known: dict[int, str] = field(default_factory=dict)

    def why(self, pid: int) -> str:
        """Return why ``pid`` is left alone, empty when it is not."""
        if pid not in self._known:
            self._known[pid] = self._find(pid)
        return self._known[pid]

    def _find(self, pid: int) -> str:
        if pid <= 1:
            return "it is the first process of the machine"
        if pid in self.named:
            return self.named[pid]
        if self.is_managed(pid):
            return "rollbridge manages it"
        if self.is_elsewhere(pid):
            return "it runs in a container: stop it with what started that"
        return ""


def name_protected(table: ProcessTable, own_pid: int, daemon_pids: Sequence[int]) -> dict[int, str]:
    """Return who is never touched by pid: this command and its ancestors, daemons and what descends from them."""
    named: dict[int, str] = {}
    for daemon in daemon_pids:
        pending = [row.pid for row in table.children.get(daemon, ())]
        named[daemon] = "it is the daemon"
        while pending:
            pid = pending.pop()
            if pid not in named:
                named[pid] = "the daemon manages it"
                pending += [row.pid for row in table.children.get(pid, ())]
    named.update((pid, "this command runs inside of it") for pid in table.ancestors(own_pid))
    named[own_pid] = "it is this command"
    return named
