"""Deadlines that move often and fire rarely: to move one later costs nothing, only those that come due are seen."""

from __future__ import annotations

import heapq
import itertools
from typing import Final, Protocol

NEVER: Final = float("inf")


class Timed(Protocol):
    """Something with a deadline. ``deadline`` may be set later at will; to set it earlier, go through Deadlines.set."""

    deadline: float  # monotonic seconds, or NEVER
    queued_for: float  # when Deadlines will look at it next; NEVER: not queued

    def expired(self) -> None: ...


class Deadlines:
    """A heap of promises to look at an item's deadline at a time; of those of one item only the earliest counts."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timed]] = []
        self._order = itertools.count()
        self._stale = 0  # entries that count no more

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_due(self) -> float:
        return self._heap[0][0] if self._heap else NEVER

    def set(self, item: Timed, deadline: float) -> None:
        """Give ``item`` a deadline; when it comes due, and was not moved or cleared, ``item.expired()`` is called."""
        item.deadline = deadline
        if deadline < item.queued_for:
            if item.queued_for != NEVER:
                self._outdate()
            item.queued_for = deadline
            heapq.heappush(self._heap, (deadline, next(self._order), item))

    def forget(self, item: Timed) -> None:
        """Let go of an item that is closed: with short connections there would soon be more dead than living ones."""
        item.deadline = NEVER
        if item.queued_for != NEVER:
            item.queued_for = NEVER
            self._outdate()

    def _outdate(self) -> None:
        self._stale += 1
        if self._stale > 100 and self._stale > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[0] == entry[2].queued_for]
            heapq.heapify(self._heap)
            self._stale = 0

    def take_due(self, now: float) -> list[Timed]:
        """Take out what has expired at ``now``; items whose deadline has moved meanwhile are queued again."""
        due: list[Timed] = []
        while self._heap and self._heap[0][0] <= now:
            queued_for, _, item = heapq.heappop(self._heap)
            if queued_for != item.queued_for:
                self._stale -= 1
                continue
            item.queued_for = NEVER
            if item.deadline <= now:
                item.deadline = NEVER
                due.append(item)
            elif item.deadline != NEVER:
                self.set(item, item.deadline)
        return due
