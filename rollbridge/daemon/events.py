"""What happened: one line of JSON each, kept in memory, in the state file and in the daemon's log."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rollbridge.daemon.log_file import rotate_log
from rollbridge.proxy.log_descriptor import log_path, reopen

KEPT_EVENTS: Final = 1000
_LOOK_EVERY_LINES: Final = 100

Event = dict[str, object]


def format_utc(epoch_seconds: float) -> str:
    """Return ``2026-11-21T01:02:03.456Z``."""
    moment = datetime.fromtimestamp(epoch_seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def without_commands(event: Event) -> Event:
    """Return ``event`` as the state file keeps it: command lines may hold secrets, and are never written there."""
    data = event.get("data")
    if not isinstance(data, dict) or "commands" not in data:
        return event
    return {**event, "data": {name: value for name, value in data.items() if name != "commands"}}


class EventLog:
    """The last 1000 events, and whoever listens for the next.

    The log is written to ``descriptor`` line by line. A log that cannot be written (full disk, reader
    gone) must not stop the daemon: those lines are counted in ``lost_lines`` and live on in memory.
    """

    def __init__(self, descriptor: int, utc: Callable[[], float], path: Path | None = None) -> None:
        """``path`` is the file that is kept small when ``descriptor`` writes to just that one."""
        self._descriptor = descriptor
        self._path = path
        self.log_path = log_path(descriptor)  # None for a terminal, a pipe, the journal
        self._written = 0
        self._utc = utc
        self._kept: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._encoded: deque[str] = deque(maxlen=KEPT_EVENTS)  # the same, for the state file
        self._listeners: list[Callable[[Event], None]] = []
        self.lost_lines = 0

    def record(self, message: str, data: Mapping[str, object]) -> None:
        """Append one event, now."""
        event: Event = {"at": format_utc(self._utc()), "message": message, "data": dict(data)}
        self._keep(event)
        line = json.dumps(event, ensure_ascii=False, default=str) + "\n"
        try:
            os.write(self._descriptor, line.encode("utf-8", "replace"))
        except OSError:
            self.lost_lines += 1
        self._written += 1
        if self._path is not None and self._written % _LOOK_EVERY_LINES == 0:
            rotate_log(self._descriptor, self._path)
        for listener in list(self._listeners):
            listener(event)

    def _keep(self, event: Event) -> None:
        self._kept.append(event)
        # Once for each event, not once for each of the many times that the state file is written.
        self._encoded.append(json.dumps(without_commands(event), separators=(",", ":"), default=str))

    def reopen(self) -> bool:
        """Go on in the file that the log's path names now, whatever was renamed; return whether it is another.

        Raises OSError, and then the old one is written on.
        """
        return self.log_path is not None and reopen(self._descriptor, self.log_path)

    def encoded(self) -> tuple[str, ...]:
        """Return the kept events as the JSON texts that the state file holds, oldest first."""
        return tuple(self._encoded)

    def last(self, limit: int) -> list[Event]:
        """Return the last ``limit`` events, oldest first."""
        return list(self._kept)[-limit:] if limit > 0 else []

    def restore(self, events: Iterable[Event]) -> None:
        """Put the events of an earlier daemon before those of this one."""
        own = list(self._kept)
        self._kept.clear()
        self._encoded.clear()
        for event in (*events, *own):
            self._keep(event)

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``listener`` for every event from now on; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)
