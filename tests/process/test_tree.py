"""Membership in a process tree, decided over tables made by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rollbridge.process.identity import ProcessIdentity
from rollbridge.process.table import ProcessRow, ProcessTable
from rollbridge.process.tree import Instance, find_members

DAEMON, LEADER = 10, 100
OURS = Instance(ProcessIdentity(LEADER, 1000, "boot"), "token")
ADOPTED = replace(OURS, is_adopted=True)


@dataclass(frozen=True, slots=True)
class P:
    """One process: pid, parent, session, and the mark in its environment."""

    pid: int
    parent: int
    session: int
    mark: str | None = None
    start: int = 2000
    group: int | None = None


BASE = [P(1, 0, 1, start=1), P(2, 1, 2, start=5), P(DAEMON, 2, 2, start=900), P(LEADER, DAEMON, LEADER, "token", 1000)]


def make_table(*everyone: P) -> ProcessTable:
    rows = {
        one.pid: ProcessRow(one.pid, one.parent, one.group or one.session, one.session, one.start, 0, False)
        for one in everyone
    }
    return ProcessTable(rows, "boot", marks={one.pid: one.mark for one in everyone})


def members(
    *others: P, instance: Instance = OURS, daemon_pid: int = DAEMON, without: int | None = None, **options: Any
) -> set[int]:
    table = make_table(*(one for one in BASE if one.pid != without), *others)
    return {row.pid for row in find_members(table, instance, daemon_pid=daemon_pid, **options)}


def test_session_group_and_descendants_belong() -> None:
    assert members(P(101, 100, 100), P(102, 101, 102), P(103, 102, 103)) == {100, 101, 102, 103}


def test_double_forked_daemon_belongs_by_its_mark_when_it_has_fallen_to_us() -> None:
    assert members(P(200, DAEMON, 200, "token")) == {100, 200}


def test_mark_alone_does_not_make_a_member() -> None:
    # A job queued from inside, run by a scheduler that is nobody's child of ours.
    assert members(P(300, 2, 300), P(301, 300, 301, "token")) == {100}


def test_mark_of_another_instance_or_of_none_is_not_ours() -> None:
    assert members(P(200, DAEMON, 200, "other"), P(201, DAEMON, 201, "detached"), P(202, DAEMON, 202)) == {100}


def test_daemon_its_ancestors_and_protected_workers_never_belong() -> None:
    # A daemon started from inside a managed process carries the mark, and so do its workers.
    assert members(P(200, DAEMON, 200, "token"), protected={200}) == {100}
    assert members(P(150, 100, 100), P(160, 150, 160, "token"), daemon_pid=160) == set()


def test_pid_that_is_somebody_elses_now_takes_its_session_with_it() -> None:
    stranger = P(LEADER, 2, LEADER, start=5000)
    assert members(stranger, P(101, LEADER, LEADER, start=5001), without=LEADER) == set()


def test_session_of_a_dead_leader_counts_only_for_its_own_orphans() -> None:
    orphan, stranger, marked = P(101, DAEMON, LEADER), P(102, 2, LEADER), P(103, 2, LEADER, "token")
    assert members(orphan, stranger, marked, without=LEADER) == {101, 103}


def test_older_than_the_leader_is_never_a_member() -> None:
    assert members(P(50, LEADER, LEADER, "token", start=999)) == {100}


def test_other_boot_has_no_members() -> None:
    other = replace(OURS, leader=ProcessIdentity(LEADER, 1000, "earlier"))
    assert members(P(101, 100, 100), instance=other) == set()


def test_adopted_orphans_fell_to_init_or_to_an_older_reaper() -> None:
    to_init, to_manager, to_younger = P(200, 1, 200, "token"), P(201, 2, 201, "token"), P(202, 400, 202, "token")
    table = (to_init, to_manager, to_younger, P(400, 1, 400, start=1500))
    assert members(*table, instance=ADOPTED) == {100, 200, 201}
    assert members(*table) == {100}


def test_known_member_stays_one_when_its_parents_have_died() -> None:
    bare = P(200, DAEMON, 200)
    assert members(bare, known={200: 2000}) == {100, 200}
    assert members(bare, known={200: 1999}) == {100}
    assert members(replace(bare, mark="detached"), known={200: 2000}) == {100}


def test_running_hook_is_left_out() -> None:
    assert members(P(200, DAEMON, 200, "token"), P(201, 200, 200, "token"), hook_session=200) == {100}
