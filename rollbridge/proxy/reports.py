"""Which reports are sent and which are only counted: a fault that happens a thousand times a second is said once."""

from __future__ import annotations

from typing import Final

from rollbridge.proxy.messages import Report

REPEAT_SECONDS: Final = 5.0
# Different reports remembered; beyond that the memory is cleared, and at worst something is said twice.
MAX_REMEMBERED: Final = 200


class ReportThrottle:
    """Lets a report through when the same has not been let through for REPEAT_SECONDS; others are counted."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}

    def pass_on(self, message: str, data: dict[str, object], now: float) -> Report | None:
        """Return the report to send at ``now`` (monotonic seconds), or None."""
        key = f"{message} {data}"
        last = self._last.get(key)
        if last is not None and now < last[0] + REPEAT_SECONDS:
            self._last[key] = (last[0], last[1] + 1)
            return None
        if len(self._last) >= MAX_REMEMBERED:
            self._last.clear()
        self._last[key] = (now, 0)
        return Report(message, {**data, "repeated": last[1]} if last is not None and last[1] else data)
