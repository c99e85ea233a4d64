from __future__ import annotations

import io
import os
import pty
import re

import pytest

from rollbridge.cli.progress import LiveProgress, PlainProgress, progress_line, progress_on


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def live(columns: int = 80) -> tuple[LiveProgress, io.StringIO, FakeClock]:
    stream, clock = io.StringIO(), FakeClock()
    return LiveProgress(stream, lambda: columns, clock), stream, clock


def screen(text: str, columns: int = 80) -> list[str]:
    """What a terminal shows after ``text``; fails when a line reached its last column and wrapped."""
    lines = [""]
    for piece in re.split(r"(\r\x1b\[K|\n)", text):
        if piece == "\n":
            lines.append("")
        elif piece == "\r\x1b[K":
            lines[-1] = ""
        else:
            lines[-1] += piece
    return lines


START = {"phase": "start", "message": "starting r2.web.0", "process": "r2.web.0", "seconds": 0.02}
REFUSED = {"phase": "health", "message": "r2.web.0: connection refused", "process": "r2.web.0", "seconds": 0.1}
HEALTHY = {"phase": "health", "message": "r2.web.0 is healthy", "process": "r2.web.0", "seconds": 2.5}
DONE = {"phase": "done", "message": "release r2 is active", "seconds": 2.6}


def test_plain_progress_is_a_line_for_every_report() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream)
    for report in (START, REFUSED, {**HEALTHY, "lines": ["booted", "\x1b[31mred"]}):
        progress.show(report)
        progress.tick()
    progress.close()
    assert stream.getvalue().splitlines() == [
        "   0.02s  start       starting r2.web.0",
        "   0.10s  health      r2.web.0: connection refused",
        "   2.50s  health      r2.web.0 is healthy",
        "          | booted",
        "          | ?[31mred",
    ]


def test_the_live_line_moves_and_what_is_done_stays() -> None:
    progress, stream, clock = live()
    progress.show(START)
    clock.now += 0.05
    progress.show(REFUSED)
    assert screen(stream.getvalue()) == [
        "   0.02s  start       starting r2.web.0",
        "   0.10s  health      r2.web.0: connection refused",
    ]
    clock.now += 1.5
    progress.tick()
    assert screen(stream.getvalue())[-1] == "   1.60s  health      r2.web.0: connection refused"
    progress.show(HEALTHY)
    progress.show(DONE)
    progress.close()
    progress.tick()
    assert screen(stream.getvalue()) == [
        "   0.02s  start       starting r2.web.0",
        "   2.50s  health      r2.web.0 is healthy",
        "   2.60s  done        release r2 is active",
        "",
    ]


@pytest.mark.parametrize("columns", [0, 1, 20, 40, 79, 80])
def test_the_live_line_never_reaches_the_last_column(columns: int) -> None:
    progress, stream, clock = live(columns)
    progress.show({**REFUSED, "message": "x" * 500})
    for _ in range(3):
        clock.now += 10_000
        progress.tick()
    assert all(len(line) < max(columns, 20) for line in screen(stream.getvalue()))


def test_a_report_cannot_act_on_the_terminal() -> None:
    line = progress_line({"phase": "health", "message": "a\nb\r\x1b[2Jc\t\x07"}, 0)
    assert line.isprintable() and "a b ?[2Jc" in line


def test_a_report_of_a_newer_daemon_is_survived() -> None:
    progress, stream, _ = live()
    for report in ({}, {"phase": None, "seconds": "soon", "lines": "none"}, {"seconds": True}):
        progress.show(report)
        PlainProgress(stream).show(report)
    progress.close()


def test_a_terminal_is_drawn_on_unless_it_is_a_dumb_one() -> None:
    leader, follower = pty.openpty()
    with open(follower, "w") as terminal, open(leader, "rb"):
        assert isinstance(progress_on(terminal, {"TERM": "xterm"}), LiveProgress)
        assert isinstance(progress_on(terminal, {"TERM": "dumb"}), PlainProgress)
        assert isinstance(progress_on(terminal, {}), PlainProgress)
    assert isinstance(progress_on(io.StringIO(), {"TERM": "xterm"}), PlainProgress)


def test_a_terminal_that_went_away_does_not_end_the_command() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w")  # noqa: SIM115 - closing it would write what could not be written
    try:
        PlainProgress(stream).show(START)
        progress = LiveProgress(stream, lambda: 80, FakeClock())
        progress.show(START)
        progress.close()
    finally:
        stream.close()
