"""Deadlines fire once, when they are due, wherever they were moved meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from rollbridge.proxy.timers import NEVER, Deadlines


@dataclass(eq=False)
class Item:
    name: str = ""
    deadline: float = NEVER
    queued_for: float = NEVER
    fired: list[str] = field(default_factory=list)

    def expired(self) -> None:
        self.fired.append(self.name)


def test_a_deadline_fires_once_when_due() -> None:
    deadlines, item = Deadlines(), Item()
    deadlines.set(item, 10.0)
    assert deadlines.next_due == 10.0
    assert deadlines.take_due(9.9) == []
    assert deadlines.take_due(10.0) == [item]
    assert deadlines.take_due(100.0) == []
    assert deadlines.next_due == NEVER


def test_a_deadline_moved_later_costs_no_entry_and_fires_later() -> None:
    deadlines, item = Deadlines(), Item()
    deadlines.set(item, 10.0)
    for later in range(11, 20):
        item.deadline = float(later)
        deadlines.set(item, float(later))
    assert len(deadlines) == 1
    assert deadlines.take_due(18.9) == []
    assert deadlines.take_due(19.0) == [item]


def test_a_cleared_deadline_does_not_fire_and_can_be_set_again() -> None:
    deadlines, item = Deadlines(), Item()
    deadlines.set(item, 10.0)
    item.deadline = NEVER
    assert deadlines.take_due(10.0) == []
    deadlines.set(item, 12.0)
    assert deadlines.take_due(12.0) == [item]


def test_a_deadline_moved_earlier_fires_earlier_and_only_then() -> None:
    deadlines, item = Deadlines(), Item()
    deadlines.set(item, 10.0)
    deadlines.set(item, 5.0)
    assert deadlines.take_due(5.0) == [item]
    assert deadlines.take_due(10.0) == []


def test_what_is_forgotten_does_not_fire_and_is_not_kept() -> None:
    deadlines, stays = Deadlines(), Item("stays")
    deadlines.set(stays, 500.0)
    for _ in range(10_000):
        gone = Item()
        deadlines.set(gone, 75.0)
        deadlines.forget(gone)
        assert len(deadlines) < 300
    assert deadlines.take_due(500.0) == [stays]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30) | st.none()), max_size=40))
def test_deadlines_agree_with_a_naive_model(moves: list[tuple[int, int | None]]) -> None:
    deadlines = Deadlines()
    items = [Item(str(index)) for index in range(4)]
    for now, (index, after) in enumerate(moves):
        if after is None:
            items[index].deadline = NEVER
        else:
            deadlines.set(items[index], float(now + after))
        expected = {item.name for item in items if item.deadline <= now}
        assert {getattr(item, "name", "") for item in deadlines.take_due(float(now))} == expected
        assert deadlines.next_due <= min(item.deadline for item in items)
