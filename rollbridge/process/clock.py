"""Time as it is passed in: ``monotonic`` for deadlines and durations, ``utc_now`` for what people read."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the shells need to know of time; tests pass a fake one."""

    def monotonic(self) -> float: ...

    def utc_now(self) -> datetime: ...


class SystemClock:
    """The machine's own clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def utc_now(self) -> datetime:
        return datetime.now(UTC)


def format_at(moment: datetime) -> str:
    """``moment`` as status, events and logs write it: UTC, milliseconds, ``2026-11-21T01:02:03.456Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
