"""Whether a line of output was lost: what was read of it, again and again, has to join without a gap. Pure."""

from __future__ import annotations

from collections.abc import Iterable


class Continuity:
    """Of one process that prints ``tick <who> 0``, ``tick <who> 1``, …; each reading is the lines kept at a moment."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.lines = 0
        self._last: dict[str, int] = {}

    def read(self, lines: Iterable[str]) -> None:
        """Take a reading: rows of numbers without a gap, which begin no later than where the last one ended."""
        before = dict(self._last)
        inside: dict[str, int] = {}
        for line in lines:
            words = line.split(" ")
            if len(words) != 3 or words[0] != "tick" or not words[2].isdecimal():
                self.problems.append(f"not a line that was printed: {line[:120]!r}")
                continue
            who, number = words[1], int(words[2])
            if who in inside:
                if number != inside[who] + 1:
                    self.problems.append(f"{who}: line {number} follows line {inside[who]}")
            elif number > before.get(who, -1) + 1:
                self.problems.append(
                    f"{who}: the reading begins with line {number}, the last ended at {before.get(who)}"
                )
            inside[who] = number
        for who, number in inside.items():
            if number < before.get(who, -1):
                self.problems.append(f"{who}: the reading ends with line {number}, the last one at {before[who]}")
            self.lines += max(0, number - before.get(who, -1))
            self._last[who] = max(number, before.get(who, -1))
