"""What a person sees while the demo runs: plain lines, and on a terminal a status line below them."""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Callable, Mapping
from typing import Final, TextIO

WIDTHS: Final = (40, 120)  # of the lines on a terminal: wide enough to print at all, narrow enough to read
USUAL_WIDTH: Final = 80  # of a terminal that does not know its own
ERASE_LINE: Final = "\r\x1b[K"


class Screen:
    """Writes to ``stream``. Text is ASCII, so that no locale can refuse it.

    ``width`` is that of the terminal, which also gets a status line; None: not a terminal, lines stay as long as they
    are. When nobody reads any more (a closed pipe, a terminal that is gone), ``on_closed`` is called once.
    """

    def __init__(
        self, stream: TextIO, *, width: int | None, clock: Callable[[], float], on_closed: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._width = None if width is None else min(max(width - 1, WIDTHS[0]), WIDTHS[1])
        self._clock = clock
        self._started_at = clock()
        self._status = ""
        self._on_closed = on_closed
        self._is_closed = False

    @property
    def seconds(self) -> float:
        """Since the demo began."""
        return self.seconds_at(self._clock())

    def seconds_at(self, now: float) -> float:
        return now - self._started_at

    def step(self, text: str) -> None:
        """One line with the time, wrapped where it is longer than the screen."""
        self._lines(self._wrap(text, 8), f"{self.seconds:6.1f}s ", " " * 8)

    def detail(self, text: str) -> None:
        """A line of another program, told apart by a bar, its control characters taken out."""
        printable = "".join(char if char.isprintable() else "?" for char in text.expandtabs())
        self._lines(self._wrap(printable, 10), " " * 8 + "| ", " " * 8 + "| ")

    def status(self, text: str) -> None:
        """Replace the status line; does nothing where there is none."""
        if self._width is not None:
            self._status = f"{self.seconds:6.1f}s {text}"[: self._width]
            self._write(ERASE_LINE + self._status)

    def close(self) -> None:
        if self._status:
            self._status = ""
            self._write(ERASE_LINE)

    def _wrap(self, text: str, indent: int) -> list[str]:
        if self._width is None:
            return [text]
        return textwrap.wrap(text, self._width - indent, break_on_hyphens=False) or [""]

    def _lines(self, pieces: list[str], first: str, following: str) -> None:
        lines = [(first if index == 0 else following) + piece for index, piece in enumerate(pieces)]
        erase = ERASE_LINE if self._status else ""
        self._write(erase + "\n".join(lines) + "\n" + self._status)

    def _write(self, text: str) -> None:
        if self._is_closed:
            return
        try:
            self._stream.write(text.encode("ascii", "replace").decode("ascii"))
            self._stream.flush()
        except (OSError, ValueError):
            self._is_closed = True
            silence(self._stream)
            self._on_closed()


def silence(stream: TextIO) -> None:
    """Lead a stream that nobody reads to nowhere, so that flushing what it still holds is no error at exit either."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def terminal_width(stream: TextIO, environ: Mapping[str, str]) -> int | None:
    """How wide the terminal ``stream`` is; None when it is none, or one that cannot erase a line."""
    if not stream.isatty() or environ.get("TERM", "dumb") == "dumb":
        return None
    return os.get_terminal_size(stream.fileno()).columns or USUAL_WIDTH


def show_mix(releases: Mapping[str, int]) -> str:
    """Which release answered how much: ``v1 25%, v2 75%``."""
    total = sum(releases.values())
    if not total:
        return "nobody answers"
    return ", ".join(f"{name} {count * 100 / total:.0f}%" for name, count in sorted(releases.items()) if count)
