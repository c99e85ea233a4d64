from __future__ import annotations

import pytest

from rollbridge.cli.diagnosis import (
    MIB,
    OK,
    PROBLEM,
    WARNING,
    Disk,
    Finding,
    clock_finding,
    disk_finding,
    exit_is_bad,
    is_for,
    limit_finding,
    parse_span,
    parse_unit,
    unit_findings,
)

UNIT = """\
[Unit]
TimeoutStopSec=1s
[Service]
# TimeoutStopSec=2s
Type=simple
KillMode=process
ExecStart=/opt/rollbridge.pyz \\
    --config /srv/shop/rollbridge.toml daemon --resume
TimeoutStopSec=30s
"""


def levels(text: str, seconds: float = 45, indefinite: tuple[str, ...] = ()) -> list[str]:
    return [finding.level for finding in unit_findings(parse_unit("u.service", [text]), seconds, indefinite)]


def test_a_unit_that_kills_sooner_than_a_stop_may_take_is_a_problem_with_its_figures() -> None:
    (finding,) = unit_findings(parse_unit("u.service", [UNIT]), 45.5, [])
    assert finding.level == PROBLEM
    assert "TimeoutStopSec=30s" in finding.message
    assert "45.5 s" in finding.message
    assert "TimeoutStopSec=46s" in finding.fix


def test_the_time_is_enough_when_it_is_equal_or_asked_for_by_the_daemon() -> None:
    assert levels(UNIT, 30) == [OK]
    assert levels(UNIT, 30.1) == [PROBLEM]
    assert levels(UNIT.replace("Type=simple", "Type=notify"), 45) == [OK]
    assert levels(UNIT.replace("Type=simple", "Type=notify\nNotifyAccess=none"), 45) == [PROBLEM]
    assert levels(UNIT.replace("=30s", "=infinity"), 1e9) == [OK]
    assert levels(UNIT.replace("=30s", "=0"), 1e9) == [OK]


def test_without_a_setting_systemd_waits_90_seconds() -> None:
    assert levels("[Service]\nKillMode=process", 90) == [OK]
    assert levels("[Service]\nKillMode=process", 91) == [PROBLEM]


def test_an_indefinite_stop_under_a_finite_time_is_a_warning() -> None:
    assert levels(UNIT.replace("Type=simple", "Type=notify"), 20, ("worker",)) == [WARNING, OK]
    assert levels(UNIT.replace("=30s", "=infinity"), 20, ("worker",)) == [OK]


def test_a_stop_signal_for_all_at_once_is_a_problem() -> None:
    assert levels(UNIT.replace("KillMode=process", ""), 1) == [PROBLEM, OK]
    assert levels(UNIT.replace("KillMode=process", "KillMode=mixed"), 1) == [PROBLEM, OK]


def test_a_drop_in_overrides_the_unit() -> None:
    unit = parse_unit("u.service", [UNIT, "[Service]\nTimeoutStopSec=2min\n"])
    assert [finding.level for finding in unit_findings(unit, 100, [])] == [OK]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1min 30s", 90), ("1.5h", 5400), ("2m", 120), ("100ms", 0.1), ("infinity", float("inf"))],
)
def test_a_span_of_systemd_is_read(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "soon", "5 parsecs", "-1"])
def test_what_is_no_span_is_none(text: str) -> None:
    assert parse_span(text) is None
    if text.strip():
        assert levels(UNIT.replace("=30s", f"={text}"))[0] == PROBLEM


def test_a_unit_is_for_the_config_that_its_command_names() -> None:
    assert is_for(parse_unit("u", [UNIT]), "/srv/shop/rollbridge.toml")
    assert not is_for(parse_unit("u", [UNIT]), "/srv/other/rollbridge.toml")
    assert not is_for(parse_unit("u", [UNIT.replace(" daemon ", " status ")]), "/srv/shop/rollbridge.toml")
    bare = parse_unit("u", ["[Service]\nWorkingDirectory=/srv/shop\nExecStart=/opt/rollbridge.pyz daemon"])
    assert is_for(bare, "/srv/shop/rollbridge.toml")
    assert not is_for(bare, "/srv/shop/other.toml")
    assert not is_for(parse_unit("u", [""]), "/srv/shop/rollbridge.toml")


def test_disk_limits_and_clock_are_judged_at_their_edges() -> None:
    assert disk_finding(Disk("/run", 20 * MIB, None)).level == WARNING
    assert disk_finding(Disk("/run", 20 * MIB - 1, None)).level == PROBLEM
    assert disk_finding(Disk("/run", 200 * MIB, 100)).level == OK
    assert disk_finding(Disk("/run", 200 * MIB, 99)).level == PROBLEM
    assert limit_finding(264, 100).level == OK
    assert limit_finding(263, 100).level == WARNING
    assert limit_finding(None, 10**9).level == OK
    now = 1.8e9
    assert clock_finding(now, now + 60).level == OK
    assert clock_finding(now, now + 61).level == PROBLEM
    assert clock_finding(1.7e9, None).level == PROBLEM


def test_only_problems_are_bad() -> None:
    assert not exit_is_bad([Finding("x", OK, ""), Finding("x", WARNING, "", "")])
    assert exit_is_bad([Finding("x", OK, ""), Finding("x", PROBLEM, "", "")])
