"""Which processes belong to a managed one: a pure decision over a process table.

A process is a member of an instance when

1. it is the leader (pid and start time), or in the leader's session or group, or
2. its parent is a member, or
3. it carries the instance's mark in its environment (``ROLLBRIDGE_INSTANCE``, a random token per start) *and* its
   parent is the process that orphans of the tree fall to: this daemon (their subreaper); for an adopted tree also
   pid 1 or a process older than the leader, such as a user's service manager, to which orphans fell while no
   daemon ran. This finds daemons that double-forked into a session of their own.

The mark alone is not enough, because environments are copied: a job queued with at(1) from inside a managed process
carries it and is nobody's child of ours. A process that must outlive the one it was started by (a detached
rollbridge daemon, say) sets the variable to another value (``DETACHED``), which takes it out of rules 3 and 4.

4. While a stop runs, what was a member at its start stays one, though its parents have died since
   (unless it carries another mark).

Never members: this daemon, its ancestors, what it protects (the proxy workers) and pid 1. When the leader's pid
belongs to somebody else by now, session and group numbers mean nothing and rule 1 is void; when the leader is gone, a
process in "its" session counts only if it was orphaned to one of the parents of rule 3, or carries the mark: the
number could have been used again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from rollbridge.process.identity import ProcessIdentity
from rollbridge.process.table import ProcessRow as ProcessRow
from rollbridge.process.table import ProcessTable as ProcessTable

INSTANCE_VARIABLE = "ROLLBRIDGE_INSTANCE"
DETACHED = "detached"  # value for processes that belong to no instance


@dataclass(frozen=True, slots=True)
class Instance:
    """One start of a managed process: its leader and the token all its descendants inherit."""

    leader: ProcessIdentity
    token: str
    is_adopted: bool = False


def find_members(
    table: ProcessTable,
    instance: Instance,
    *,
    daemon_pid: int,
    protected: Collection[int] = (),
    known: Mapping[int, int] | None = None,
    hook_session: int | None = None,
) -> list[ProcessRow]:
    """Living members of ``instance``, leader first when it lives; the rules are those of the module.

    ``known`` maps pid to start time for rule 4. ``hook_session`` is the session of a hook that runs right now; it has
    the process's environment but is no part of the process.
    """
    leader = instance.leader
    if table.boot_id != leader.boot_id:
        return []
    outsiders = {1, daemon_pid, *protected, *table.ancestors(daemon_pid)}

    def may_belong(row: ProcessRow) -> bool:
        if row.pid in outsiders or row.start_ticks < leader.start_ticks:
            return False
        return hook_session is None or row.session != hook_session

    members: dict[int, ProcessRow] = {}
    for row in list_candidates(table, instance, daemon_pid, known or {}):
        if may_belong(row) and is_root(table, instance, row, daemon_pid=daemon_pid, known=known or {}):
            members[row.pid] = row
    pending = list(members)
    while pending:  # rule 2
        for row in table.children.get(pending.pop(), ()):
            if row.pid not in members and may_belong(row):
                members[row.pid] = row
                pending.append(row.pid)
    return sorted(members.values(), key=lambda row: (row.pid != leader.pid, row.start_ticks, row.pid))


def find_leader(table: ProcessTable, token: str) -> ProcessIdentity | None:
    """Return who was started with ``token``, None when nothing of it lives: the leader of its session, or the oldest.

    For a start that was announced and never recorded; whatever carries the token descends from that start.
    """
    marked = [row for row in table.rows.values() if table.mark(row.pid, INSTANCE_VARIABLE) == token]
    if not marked:
        return None
    return table.identity(min(marked, key=lambda row: (row.pid != row.session, row.start_ticks, row.pid)))


def list_candidates(
    table: ProcessTable, instance: Instance, daemon_pid: int, known: Mapping[int, int]
) -> Iterable[ProcessRow]:
    """Rows that may be members by themselves: few, so that a status with many processes stays cheap."""
    if instance.is_adopted:
        return table.rows.values()
    leader_pid = instance.leader.pid
    # A process group lies within one session (setpgid(2)), so the session finds the group as well.
    named = [row for pid in (leader_pid, *known) if (row := table.rows.get(pid)) is not None]
    return [*named, *table.sessions.get(leader_pid, ()), *table.children.get(daemon_pid, ())]


def is_root(
    table: ProcessTable, instance: Instance, row: ProcessRow, *, daemon_pid: int, known: Mapping[int, int]
) -> bool:
    """Whether ``row`` is a member by itself (rules 1, 3 and 4), not only through its parent."""
    leader = instance.leader
    holder = table.rows.get(leader.pid)
    if row.pid == leader.pid:
        return row.start_ticks == leader.start_ticks
    is_orphan = is_fallen_to_us(table, instance, row, daemon_pid)
    if leader.pid in (row.session, row.group):
        if holder is not None:
            return holder.start_ticks == leader.start_ticks
        mark = table.mark(row.pid, INSTANCE_VARIABLE)
        return mark == instance.token or (mark is None and is_orphan)
    is_known = known.get(row.pid) == row.start_ticks
    if not is_orphan and not is_known:
        return False
    mark = table.mark(row.pid, INSTANCE_VARIABLE)
    return (is_orphan and mark == instance.token) or (is_known and mark in (None, instance.token))


def is_fallen_to_us(table: ProcessTable, instance: Instance, row: ProcessRow, daemon_pid: int) -> bool:
    """Whether the parent of ``row`` is one that orphans of this tree are given to (rule 3)."""
    if row.parent == daemon_pid:
        return True
    if not instance.is_adopted:
        return False
    parent = table.rows.get(row.parent)
    return row.parent <= 1 or (parent is not None and parent.start_ticks < instance.leader.start_ticks)
