"""Which reports are sent and which are only counted: a fault that happens a thousand times a second is said once."""

from __future__ import annotations

from typing import Final

from rollbridge.proxy.messages import Report

REPEAT_SECONDS: Final = 5.0
# Different ones let through in that time: an application that quotes its clients in its faults could fill the events,
# and keep the supervisor busy.
MAX_PASSED: Final = 50
# Different reports remembered; beyond that the memory is cleared, and at worst something is said twice.
MAX_REMEMBERED: Final = 200


class ReportThrottle:
    """Lets a report through when the same has not been let through for REPEAT_SECONDS; others are counted.

    ``repeated`` in its data is how often the same was held back before, ``left_out`` how many others were.
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}
        self._period_began = float("-inf")
        self._passed = 0  # since then
        self._left_out = 0  # different ones, for there were too many

    def pass_on(self, message: str, data: dict[str, object], now: float) -> Report | None:
        """Return the report to send at ``now`` (monotonic seconds), or None."""
        key = f"{message} {data}"
        last = self._last.get(key)
        if last is not None and now < last[0] + REPEAT_SECONDS:
            self._last[key] = (last[0], last[1] + 1)
            return None
        if now >= self._period_began + REPEAT_SECONDS:
            self._period_began = now
            self._passed = 0
        if self._passed >= MAX_PASSED:
            self._left_out += 1
            return None
        self._passed += 1
        if len(self._last) >= MAX_REMEMBERED:
            self._last.clear()
        self._last[key] = (now, 0)
        if last is not None and last[1]:
            data = {**data, "repeated": last[1]}
        if self._left_out:
            data = {**data, "left_out": self._left_out}
            self._left_out = 0
        return Report(message, data)
