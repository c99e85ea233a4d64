"""What shows that no line was lost."""

from __future__ import annotations

import pytest

from tests.chaos.lines import Continuity


def ticks(*numbers: int, who: str = "7-70") -> list[str]:
    return [f"tick {who} {number}" for number in numbers]


def test_readings_that_overlap_or_join_are_whole() -> None:
    continuity = Continuity()
    for reading in (ticks(0, 1, 2), ticks(1, 2, 3), ticks(4, 5), ticks(4, 5), ticks(0, 1, 2, 3, 4, 5, 6)):
        continuity.read(reading)
    assert continuity.problems == []
    assert continuity.lines == 7


@pytest.mark.parametrize(
    "readings",
    [
        pytest.param([ticks(1, 2)], id="the first is missing"),
        pytest.param([ticks(0, 2)], id="one within is missing"),
        pytest.param([ticks(0, 1), ticks(3, 4)], id="one between two readings is missing"),
        pytest.param([ticks(0, 1, 2), ticks(0, 1)], id="the last is gone again"),
        pytest.param([ticks(0, 1, 1, 2)], id="one twice"),
        pytest.param([[*ticks(0), "tick 7-70 1tick 7-70 2"]], id="two in one"),
        pytest.param([[*ticks(0), "[rollbridge: 20 bytes skipped]"]], id="some skipped"),
        pytest.param([ticks(0), ["ck 7-70 1"]], id="torn"),
    ],
)
def test_a_gap_is_found(readings: list[list[str]]) -> None:
    continuity = Continuity()
    for reading in readings:
        continuity.read(reading)
    assert continuity.problems


def test_processes_are_told_apart() -> None:
    continuity = Continuity()
    continuity.read([*ticks(0, 1), *ticks(0, who="8-80")])
    continuity.read([*ticks(2), *ticks(1, 2, who="8-80")])
    assert continuity.problems == []
