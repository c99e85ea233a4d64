"""Which recorded processes live without a daemon."""

from __future__ import annotations

import pytest

from rollbridge.daemon.recorded import read_recorded
from rollbridge.process.table import ProcessRow, ProcessTable
from rollbridge.takeover.orphans import Orphan, Suspect, find_orphans, list_suspects, unrecorded_suspects


def row(pid: int, parent: int = 1, session: int = 0, ticks: int = 0) -> ProcessRow:
    return ProcessRow(pid, parent, pid, session or pid, ticks or pid, 0, False)


def table(*rows: ProcessRow, **marks: str) -> ProcessTable:
    found = ProcessTable({one.pid: one for one in rows}, "boot")
    found.marks.update({one.pid: marks.get(f"p{one.pid}") for one in rows})
    return found


def record(name: str, pid: int | None, **more: object) -> dict[str, object]:
    return {
        "id": name,
        "release_id": "r1",
        "state": "running",
        "pid": pid,
        "start_ticks": pid,
        "boot_id": "boot",
        "instance": f"token-{name}",
        **more,
    }


def state(*records: dict[str, object], **more: object) -> dict[str, object]:
    release = {"key": "r1", "release_id": "r1", "release_path": "/r1", "revision": "r1", "state": "active"}
    return {"boot_id": "boot", "releases": [{**release, "processes": list(records)}], **more}


def orphans(found: dict[str, object], processes: ProcessTable) -> list[Orphan]:
    suspects = list_suspects(read_recorded(found), processes)
    return find_orphans(
        suspects,
        processes,
        own_pid=2,
        ticks_now=1000,
        ticks_per_second=100,
        read_command=lambda pid: f"command {pid}",
    )


def test_what_lives_is_listed_with_its_whole_tree() -> None:
    found = orphans(state(record("web", 10), record("gone", 50)), table(row(10), row(11, 10), row(99)))
    assert [one.document() for one in found] == [
        {
            "id": "web",
            "release_id": "r1",
            "pid": 10,
            "age_seconds": 9.9,
            "command": "command 10",
            "pids": [10, 11],
        }
    ]


def test_a_number_that_is_somebody_elses_now_is_no_orphan() -> None:
    assert orphans(state(record("web", 10)), table(row(10, ticks=500))) == []


def test_of_another_boot_nothing_is_an_orphan() -> None:
    assert orphans(state(record("web", 10, boot_id="earlier")), table(row(10))) == []


def test_a_tree_whose_leader_has_ended_is_found_by_its_mark() -> None:
    found = orphans(state(record("web", 10)), table(row(30), p30="token-web"))
    assert [(one.pid, one.pids) for one in found] == [(30, (30,))]


def test_a_start_that_was_not_completed_is_found_by_its_mark() -> None:
    found = orphans(state(record("web", None, start_ticks=None)), table(row(30), row(31, 30), p30="token-web"))
    assert [one.pids for one in found] == [(30, 31)]


def test_services_singletons_earlier_orphans_and_proxy_workers_are_listed_too() -> None:
    found = state(
        services=[record("broker", 10)],
        singletons=[record("cron", 11)],
        orphans=[{"id": "old", "release_id": None, "pid": 12, "start_ticks": 12, "boot_id": "boot"}],
        workers=[{"index": 0, "pid": 13, "start_ticks": 13, "socket": "/run/w"}],
    )
    listed = orphans(found, table(row(10), row(11), row(12), row(13)))
    assert [one.suspect.id for one in listed] == ["broker", "cron", "old", "proxy worker 0"]
    assert listed[3].suspect.is_worker


def test_a_record_that_makes_no_sense_is_left_out() -> None:
    assert orphans(state(record("web", 10, restarts="x"), {"id": 5}), table(row(10))) == []


def test_a_mark_alone_is_no_proof() -> None:
    processes = table(row(10), row(20), p10="mine", p20="other")

    def unrecorded(known: list[Suspect]) -> list[Suspect]:
        return unrecorded_suspects(processes, known, lambda pid: "r1.web.0" if pid == 10 else "", lambda pid: "r1")

    (one,) = unrecorded([])
    assert (one.id, one.release_id, one.instance.token) == ("r1.web.0 (not recorded)", "r1", "mine")
    assert unrecorded([one]) == []  # known by now


@pytest.mark.parametrize(("session", "marks"), [(7, {}), (10, {"p10": "of another start"})])
def test_a_process_that_is_certainly_none_of_ours_is_no_orphan_though_its_start_time_agrees(
    session: int, marks: dict[str, str]
) -> None:
    processes = table(row(10, session=session), **marks)
    assert orphans(state(record("web", 10)), processes) == []
    worker = {"index": 0, "pid": 10, "start_ticks": 10, "socket": "/run/w"}
    assert len(orphans(state(workers=[worker]), processes)) == (session == 10)
