"""``status --watch``: the page drawn again and again, on a screen of its own when there is a terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final, TextIO

from rollbridge.cli.output import print_line

INTERVAL_SECONDS: Final = 1.0
_SMALLEST_COLUMNS: Final = 40
_SMALLEST_LINES: Final = 5
# The terminal's other screen, without a cursor: what stood there before comes back at the end (xterm's ctlseqs).
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_END_OF_LINE: Final = "\x1b[K\n"
_BELOW: Final = "\x1b[J"


def watch_page(draw: Callable[[int], str], finish: Callable[[str], str]) -> None:
    """Show ``draw(columns)`` every second until Ctrl-C, SIGTERM or SIGHUP; ``finish`` colours a cut page.

    Without a terminal each page is printed below the one before.
    """
    columns, lines = size_of(sys.stdout)
    if not is_terminal(sys.stdout):
        with contextlib.suppress(KeyboardInterrupt), _ended_by_signals():
            while True:
                print_line(finish(draw(columns)) + "\n")
                time.sleep(INTERVAL_SECONDS)
        return
    page = ""
    with contextlib.suppress(KeyboardInterrupt), _ended_by_signals():
        try:
            sys.stdout.write(_ENTER)
            while True:
                columns, lines = size_of(sys.stdout)
                page = draw(columns)
                sys.stdout.write(frame(finish(cut(page, columns, lines))))
                sys.stdout.flush()
                time.sleep(INTERVAL_SECONDS)
        finally:
            sys.stdout.write(_LEAVE)
            sys.stdout.flush()
    print_line(finish(page))  # what was seen last stays


def cut(page: str, columns: int, lines: int) -> str:
    """Return as much of ``page`` as fits; what does not is told in the last line. No line reaches the last column."""
    rows = [row[: columns - 1] for row in page.split("\n")]
    if len(rows) < lines:
        return "\n".join(rows)
    hidden = len(rows) - (lines - 2)
    return "\n".join([*rows[: lines - 2], f"... {hidden} more lines"[: columns - 1]])


def frame(page: str) -> str:
    """Return what draws ``page`` over the page before, without clearing it first: nothing flickers."""
    return _HOME + "".join(f"{row}{_END_OF_LINE}" for row in page.split("\n")) + _BELOW


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def size_of(stream: TextIO) -> tuple[int, int]:
    """Return columns and lines of the terminal; 80 and 24 without one."""
    try:
        found = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    return max(found.columns or 80, _SMALLEST_COLUMNS), max(found.lines or 24, _SMALLEST_LINES)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let what would kill us end the loop instead, so that the terminal gets back what it had."""

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
