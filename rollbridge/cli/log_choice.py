"""Which lines of ``logs`` are wanted, and the names in colour; the lines of files when there is no daemon to ask.

Neither dataclasses nor pathlib: they would cost `logs` more than all of this.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

Entry = Mapping[str, Any]

# Far more than processes keep: what is chosen from is all there is.
ALL_LINES: Final = 1_000_000
# What a living process has printed last lies at a file's end; what was read before is a hole.
_TAIL_BYTES: Final = 256 * 1024
_NAME_COLOURS: Final = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")
_ENDINGS: Final = {".out": "stdout", ".err": "stderr"}


class Choice(NamedTuple):
    """``since`` is in epoch seconds; None: no such limit. ``limit`` counts the lines that are left."""

    since: float | None
    pattern: re.Pattern[str] | None
    limit: int

    @property
    def is_choosing(self) -> bool:
        return self.since is not None or self.pattern is not None

    def has(self, entry: Entry) -> bool:
        """Whether the line is wanted; one whose time nobody knows is not left out for it."""
        if self.pattern is not None and not self.pattern.search(str(entry.get("line", ""))):
            return False
        moment = seconds_of(entry.get("at"))
        return self.since is None or moment is None or moment >= self.since

    def of(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return the last lines of ``entries`` that are wanted."""
        wanted = [entry for entry in entries if self.has(entry)]
        return wanted[-self.limit :] if self.limit else []


def seconds_of(moment: object) -> float | None:
    """Return the seconds since the epoch of a time in ISO 8601, UTC unless it says otherwise; None if it is none."""
    try:
        found = datetime.fromisoformat(moment) if isinstance(moment, str) else None
    except ValueError:
        return None
    if found is None:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def colour_of(process: str) -> str:
    """Return the colour (SGR) of a process: always the same for the same one, whatever its release."""
    return _NAME_COLOURS[zlib.crc32(_without_release(process).encode()) % len(_NAME_COLOURS)]


def _without_release(process: str) -> str:
    return ".".join(process.split(".")[-2:])


def is_meant(instance_id: str, name: str | None) -> bool:
    """Whether the instance (``r42.web.0``; of a service ``broker``) is the one, or of the process, called ``name``."""
    parts = instance_id.split(".")  # a release id may have dots itself
    return name in (None, instance_id) or (len(parts) >= 3 and name == parts[-2])


def lines_of_files(directory: str, name: str | None, since: float | None) -> list[Entry]:
    """Return what the output files in ``directory`` hold, those last written last; their lines have no time.

    A file that was not written since ``since`` is left out. Raises OSError when the directory cannot be read.
    """
    found: list[tuple[float, str]] = []
    for entry in os.scandir(directory):
        stem, ending = os.path.splitext(entry.name)  # noqa: PTH122
        if ending in _ENDINGS and is_meant(stem, name):
            written_at = entry.stat().st_mtime
            if since is None or written_at >= since:
                found.append((written_at, entry.path))
    entries: list[Entry] = []
    for _written_at, path in sorted(found):
        stem, ending = os.path.splitext(os.path.basename(path))  # noqa: PTH119, PTH122
        stream = _ENDINGS[ending]
        entries += [{"process": stem, "at": None, "stream": stream, "line": line} for line in tail_lines(path)]
    return entries


def tail_lines(path: str) -> list[str]:
    """Return the lines at the end of the file; a first one that is torn by the cut is left out."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - _TAIL_BYTES)
        file.seek(start)
        data = file.read(_TAIL_BYTES)
    kept = data.lstrip(b"\0")
    if start > 0 or len(kept) < len(data):
        kept = kept.partition(b"\n")[2]
    text = kept.decode("utf-8", "replace")
    return text.removesuffix("\n").split("\n") if text else []
