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
    """A heap with at most a few entries per item: an entry is a promise to look at the item's deadline then."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timed]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_due(self) -> float:
        return self._heap[0][0] if self._heap else NEVER

    def set(self, item: Timed, deadline: float) -> None:
        """Give ``item`` a deadline; when it comes due, and was not moved or cleared, ``item.expired()`` is called."""
        item.deadline = deadline
        if deadline < item.queued_for:
            item.queued_for = deadline
            heapq.heappush(self._heap, (deadline, next(self._order), item))

    def take_due(self, now: float) -> list[Timed]:
        """Take out what has expired at ``now``; items whose deadline has moved meanwhile are queued again."""
        due: list[Timed] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            queued_for, _, item = heapq.heappop(heap)
            if queued_for != item.queued_for:
                continue  # an earlier entry of the same item has taken over
            item.queued_for = NEVER
            if item.deadline <= now:
                item.deadline = NEVER
                due.append(item)
            elif item.deadline != NEVER:
                self.set(item, item.deadline)
        return due
