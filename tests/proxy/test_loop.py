"""The loop by itself: what is due in one turn."""

from __future__ import annotations

from collections.abc import Callable

from rollbridge.proxy.loop import Loop
from rollbridge.proxy.timers import NEVER


class Item:
    def __init__(self, act: Callable[[], None]) -> None:
        self.deadline = self.queued_for = NEVER
        self._act = act

    def expired(self) -> None:
        self._act()


def test_what_was_put_off_by_another_of_the_same_turn_does_not_expire() -> None:
    loop = Loop(lambda owner, error: None)
    seen: list[str] = []
    late = Item(lambda: seen.append("late"))
    last = Item(lambda: setattr(loop, "is_stopped", True))

    def answer() -> None:
        seen.append("first")
        loop.deadlines.set(late, loop.now + 100)

    for number, item in enumerate((Item(answer), late, last)):
        loop.deadlines.set(item, loop.now - 3 + number)
    loop.run()
    assert seen == ["first"]
