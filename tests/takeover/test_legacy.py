"""Which processes belong to what the first deploy replaces, and who is never touched."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from rollbridge.config.model import LegacyProcess, LegacyTakeoverConfig
from rollbridge.process.table import ProcessRow, ProcessTable
from rollbridge.takeover.legacy import (
    PidFile,
    Plan,
    Protection,
    Sighting,
    find_again,
    name_protected,
    plan_stop,
    still_there,
)


def row(pid: int, parent: int = 1, session: int = 0, ticks: int = 0) -> ProcessRow:
    return ProcessRow(pid, parent, pid, session or pid, ticks or pid, 0, False)


def table(*rows: ProcessRow) -> ProcessTable:
    return ProcessTable({one.pid: one for one in rows}, "boot")


def legacy(*includes: str, screens: tuple[str, ...] = (), pid_files: tuple[str, ...] = ()) -> LegacyTakeoverConfig:
    processes = (LegacyProcess("old web", includes),) if includes else ()
    return LegacyTakeoverConfig(screens, processes, 1.0, pid_files)


def nobody(pid: int) -> str:
    return ""


def plan(seen: Sighting, config: LegacyTakeoverConfig, protected: Mapping[int, str] | None = None) -> Plan:
    return plan_stop(seen, config, lambda pid: (protected or {}).get(pid, ""))


def pids(found: Plan) -> list[int]:
    return [member.row.pid for member in found.members]


def test_every_text_of_includes_must_be_in_the_command_line() -> None:
    commands = {10: "python /srv/old/app.py --port 8082", 11: "python /srv/old/app.py --port 9", 12: "vi --port 8082"}
    seen = Sighting(table(row(10), row(11), row(12)), commands)
    assert pids(plan(seen, legacy("/srv/old/", "--port 8082"))) == [10]
    assert pids(plan(seen, legacy("nowhere"))) == []


def test_descendants_are_stopped_too_after_their_parents() -> None:
    rows = table(row(10), row(20, 10), row(15, 20), row(30), row(21, 10))
    found = plan(Sighting(rows, {10: "old"}), legacy("old"))
    assert pids(found) == [10, 20, 15, 21]
    assert [member.depth for member in found.members] == [0, 1, 2, 1]
    assert found.members[0].why == '"old web": its command line'
    assert found.members[2].why == "child of 20"


def test_a_parent_that_is_meant_comes_before_its_child_that_is_meant_too() -> None:
    found = plan(Sighting(table(row(50), row(20, 50)), {20: "old child", 50: "old parent"}), legacy("old"))
    assert pids(found) == [50, 20]
    assert [member.depth for member in found.members] == [0, 1]


def test_a_screen_is_found_by_its_name_or_by_its_name_with_the_number() -> None:
    seen = Sighting(table(row(10), row(11, 10), row(12)), {}, screens=(("old", 10), ("older", 12), ("old", 99)))
    assert pids(plan(seen, legacy(screens=("old",)))) == [10, 11]
    assert pids(plan(seen, legacy(screens=("12.older",)))) == [12]
    assert pids(plan(seen, legacy(screens=("ol",)))) == []


def test_a_pid_file_means_its_process_unless_that_is_younger_than_the_file() -> None:
    rows = table(row(10, ticks=5000))  # started 50 s after boot
    config = legacy(pid_files=("/run/old.pid",))
    fresh = Sighting(rows, {}, pid_files=(PidFile("/run/old.pid", 10, 1051.0),), boot_at=1000.0)
    assert pids(plan(fresh, config)) == [10]
    stale = Sighting(rows, {}, pid_files=(PidFile("/run/old.pid", 10, 1040.0),), boot_at=1000.0)
    assert pids(plan(stale, config)) == []
    assert "another process" in plan(stale, config).spared[0].why
    assert not plan(stale, config).spared[0].is_named
    gone = Sighting(rows, {}, pid_files=(PidFile("/run/old.pid", 11, 1051.0),), boot_at=1000.0)
    assert plan(gone, config) == Plan((), ())


def test_who_is_protected_is_spared_though_it_is_meant_or_descends_from_who_is() -> None:
    rows = table(row(10), row(11, 10), row(12, 11), row(13, 10))
    found = plan(Sighting(rows, {10: "old", 13: "old"}), legacy("old"), {11: "the daemon", 13: "this command"})
    assert pids(found) == [10]  # not 12 either: it is below who is protected
    assert [(one.pid, one.why, one.is_named) for one in found.spared] == [(13, "this command", False)]


def test_a_screen_that_is_protected_is_named() -> None:
    seen = Sighting(table(row(10)), {}, screens=(("old", 10),))
    assert plan(seen, legacy(screens=("old",)), {10: "this command runs inside of it"}).spared[0].is_named


def test_this_command_its_ancestors_the_daemon_and_what_is_below_it_are_protected() -> None:
    rows = table(row(5), row(10, 5), row(20, 10), row(30), row(31, 30), row(32, 31), row(40))
    named = name_protected(rows, 20, [30])
    assert set(named) - {0, 1} == {5, 10, 20, 30, 31, 32}
    assert named[10] == "this command runs inside of it" and named[32] == "the daemon manages it"


@pytest.mark.parametrize(
    ("pid", "part"), [(0, "first"), (1, "first"), (10, "daemon"), (11, "manages"), (12, "contain")]
)
def test_each_protection_says_why(pid: int, part: str) -> None:
    protection = Protection(table(), {10: "it is the daemon"}, lambda one: one == 11, lambda one: one == 12)
    assert part in protection.why(pid)
    assert protection.why(13) == ""


def test_what_a_stopped_tree_forked_meanwhile_is_still_part_of_it() -> None:
    after = table(row(20, 10), row(25, 20), row(40, 1, session=10, ticks=90), row(50))
    known = {10: 10, 20: 20}
    assert [one.pid for one in still_there(after, known, nobody)] == [20, 40, 25]


def test_the_same_command_below_the_same_parent_has_come_back() -> None:
    before = Sighting(table(row(5), row(10, 5), row(11, 10)), {5: "loop", 10: "web --old", 11: "web --old"})
    stopped = plan(before, legacy(pid_files=("/run/x",))).members or plan(before, legacy("web")).members
    after = Sighting(table(row(5), row(30, 5), row(31, 6)), {5: "loop", 30: "web --old", 31: "web --old"})
    assert find_again(before, stopped, after, nobody) == [30]
    assert find_again(before, stopped, after, lambda pid: "managed") == []
    other = Sighting(table(row(5), row(30, 5)), {5: "loop", 30: "web --new"})
    assert find_again(before, stopped, other, nobody) == []


def test_a_number_that_is_used_again_is_not_part_of_it() -> None:
    after = table(row(10, ticks=500), row(11, 10, session=10, ticks=501))
    assert still_there(after, {10: 10}, nobody) == []


def test_what_became_protected_is_not_part_of_it() -> None:
    after = table(row(10), row(11, 10))
    assert [one.pid for one in still_there(after, {10: 10}, lambda pid: "daemon" if pid == 11 else "")] == [10]
