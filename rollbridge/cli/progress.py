"""A deploy's progress on stderr: one line that moves while a person watches, plain lines otherwise."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

from rollbridge.cli.failures import visible
from rollbridge.cli.output import write_note

Report = Mapping[str, Any]

NARROWEST_COLUMNS: Final = 20
_ERASE_LINE: Final = "\r\x1b[K"


def progress_line(report: Report, seconds: float) -> str:
    """Return ``report`` (design, section 5: ``phase``, ``message``) as one line, ``seconds`` since the start."""
    message = visible(" ".join(str(report.get("message", "")).split()))
    return f"{seconds:7.2f}s  {visible(str(report.get('phase', ''))):<10}  {message}"


def output_lines(report: Report) -> list[str]:
    """Return the last output of a process, indented below its report."""
    lines = report.get("lines")
    return [f"{'':10}| {visible(str(line))}" for line in lines] if isinstance(lines, list) else []


def seconds_of(report: Report) -> float:
    """Return the seconds since the operation began, as its daemon counted them."""
    seconds = report.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


class PlainProgress:
    """One line for every report."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, report: Report) -> None:
        write_note(self._stream, "".join(f"{line}\n" for line in _lines_of(report)))

    def tick(self) -> None:
        """Nothing moves here."""

    def close(self) -> None:
        """Nothing is open."""


class LiveProgress:
    """What goes on now stands on the last line, with its seconds running; what is done stays above it."""

    def __init__(self, stream: TextIO, columns: Callable[[], int], clock: Callable[[], float]) -> None:
        self._stream = stream
        self._columns = columns
        self._clock = clock
        self._current: Report | None = None
        self._current_began = 0.0

    def show(self, report: Report) -> None:
        """Keep the line before, unless ``report`` only says more of the same."""
        if self._current is not None and _subject(self._current) != _subject(report):
            self._keep()
        self._current = report
        self._current_began = self._clock() - seconds_of(report)
        if output_lines(report):
            self._keep()
        else:
            self.tick()

    def tick(self) -> None:
        """Draw the last line again with the seconds of now."""
        if self._current is None:
            return
        line = progress_line(self._current, self._clock() - self._current_began)
        # A line that reached the last column would wrap, and could not be erased any more.
        cut = line[: max(self._columns(), NARROWEST_COLUMNS) - 1]
        write_note(self._stream, f"{_ERASE_LINE}{cut}")

    def close(self) -> None:
        """Keep the last line; what is written next begins on a line of its own."""
        self._keep()

    def _keep(self) -> None:
        if self._current is not None:
            write_note(self._stream, _ERASE_LINE + "".join(f"{line}\n" for line in _lines_of(self._current)))
            self._current = None


def progress_on(stream: TextIO, environ: Mapping[str, str]) -> PlainProgress | LiveProgress:
    """Return the way to show progress on ``stream``."""
    if not stream.isatty() or environ.get("TERM", "dumb") == "dumb":
        return PlainProgress(stream)
    return LiveProgress(stream, lambda: _columns_of(stream), time.monotonic)


def _lines_of(report: Report) -> list[str]:
    return [progress_line(report, seconds_of(report)), *output_lines(report)]


def _subject(report: Report) -> tuple[object, object]:
    return report.get("phase"), report.get("process")


def _columns_of(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80
