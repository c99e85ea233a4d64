"""``status`` on a terminal: what is waited for, colours, and a page that is drawn again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import pytest

from rollbridge.cli.colours import is_coloured, paint
from rollbridge.cli.pending import pending
from rollbridge.cli.render import render_status
from rollbridge.cli.screen import cut, frame
from tests.cli.support import FakeDaemon, Run
from tests.cli.test_render import NOW, PAGE, process, release, status
from tests.support.waiting import wait_until

ENDS_AT = "2026-11-21T03:00:48.000Z"


def clock(moment: str) -> str:
    return datetime.fromisoformat(moment).astimezone().strftime("%H:%M:%S")


def test_a_draining_release_waits_for_connections_until_its_time_is_up() -> None:
    draining = release("r41", "draining", process("r41.web.0"), drain_ends_at=ENDS_AT)
    assert pending(status(releases=[draining]), NOW) == [
        f"r41 ends: waits for 4 connections, until {clock(ENDS_AT)} (48s left)"
    ]
    draining["connections"] = {"http": 0, "websocket": 1}
    assert "waits for 1 connection, until" in pending(status(releases=[draining]), NOW)[0]


@pytest.mark.parametrize("late", [48, 49])
def test_after_that_time_or_without_connections_it_waits_for_its_processes(late: int) -> None:
    draining = release("r41", "draining", process("r41.web.0"), process("r41.worker.0", state="stopping"))
    draining["drain_ends_at"] = ENDS_AT
    assert pending(status(releases=[draining]), NOW + late) == [
        "r41 ends: waits for the end of r41.web.0, r41.worker.0"
    ]
    draining["connections"] = {"http": 0, "websocket": 0}
    assert pending(status(releases=[draining]), NOW)[0].endswith("r41.web.0, r41.worker.0")


def test_what_starts_and_what_was_told_to_end_is_named() -> None:
    starting = release("r43", "starting", process("r43.web.0"), process("r43.worker.0", policy="companion"))
    document = status(
        releases=[starting, release("r42", "active", process("r42.worker.0", state="stopping", pid=7))],
        singletons=[process("cron.0.0", policy="singleton", state="starting", restarts=2)],
    )
    assert pending(document, NOW) == [
        "r43 starts: waits until r43.web.0 is healthy",
        "r42.worker.0 ends: pid 7 was told to",
        "cron.0.0 starts, after it ended by itself",
    ]
    assert "r43 starts: waits until r43.web.0 is healthy" in render_status(document, NOW)


def test_nothing_is_pending_where_all_is_at_rest_or_nothing_is_known() -> None:
    assert pending({}, NOW) == []
    assert pending({"releases": [{"state": "draining", "drain_ends_at": "soon"}]}, NOW) == [
        "None ends: its last processes have ended"
    ]
    assert pending(status(releases=[release("r42", "active", process("r42.web.0"))]), NOW) == []


def test_colours_are_laid_over_the_page_and_change_no_letter_of_it() -> None:
    page = PAGE + "\n\nlast failure: deploy of running, in phase  running  x"
    painted = paint(page)
    without = painted
    for code in ("0", "1", "2", "31", "32", "33"):
        without = without.replace(f"\x1b[{code}m", "")
    assert without == page
    assert "\x1b[32mrunning\x1b[0m" in painted
    assert "\x1b[33mdraining\x1b[0m" in painted
    assert "\x1b[1mRELEASE  STATE" in painted
    assert "\x1b[1mPROCESS     POLICY" in painted
    assert "\x1b[31mlast failure:\x1b[0m deploy of running, in phase  running  x" in painted


def test_colours_are_for_terminals_that_want_them() -> None:
    assert is_coloured(True, {"TERM": "xterm"})
    assert is_coloured(True, {"TERM": "xterm", "NO_COLOR": ""})
    assert not is_coloured(True, {"TERM": "xterm", "NO_COLOR": "1"})
    assert not is_coloured(True, {"TERM": "dumb"})
    assert not is_coloured(True, {})
    assert not is_coloured(False, {"TERM": "xterm"})


def test_a_page_is_cut_to_the_terminal_and_says_so() -> None:
    page = "\n".join(f"line {number} is long" for number in range(6))
    assert cut(page, 80, 7) == page
    assert cut(page, 80, 6).split("\n")[-1] == "... 2 more lines"
    assert len(cut(page, 80, 6).split("\n")) < 6, "the last line stays empty: to end it would scroll"
    assert max(len(row) for row in cut(page, 10, 6).split("\n")) == 9
    assert frame("a\nb") == "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J"


def test_without_a_terminal_there_are_no_colours(run: Run, daemon: FakeDaemon) -> None:
    daemon.answers["status"] = {"result": status()}
    assert "\x1b" not in run("status").stdout


class Watcher:
    """`status --watch` on a terminal of its own."""

    def __init__(self, config: Path, **environ: str) -> None:
        self.ours, its = os.openpty()
        self.before = termios.tcgetattr(its)
        self.its = its
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rollbridge", "-c", str(config), "status", "--watch"],
            stdin=its,
            stdout=its,
            stderr=its,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "", **environ},
        )
        os.set_blocking(self.ours, False)
        self.seen = b""

    def shows(self, text: bytes, times: int = 1) -> None:
        def is_there() -> bool:
            with suppress(BlockingIOError):  # nothing more yet
                self.seen += os.read(self.ours, 65536)
            return self.seen.count(text) >= times

        wait_until(is_there, lambda: f"{text!r} {times} times in {self.seen!r}")

    def close(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.its)
        os.close(self.ours)


@contextmanager
def watching(config: Path, **environ: str) -> Iterator[Watcher]:
    watcher = Watcher(config, **environ)
    try:
        yield watcher
    finally:
        watcher.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watching_draws_again_and_gives_the_terminal_back_at_its_end(
    config: Path, daemon: FakeDaemon, number: signal.Signals
) -> None:
    daemon.answers["status"] = {"result": status()}
    with watching(config) as watcher:
        watcher.shows(b"\x1b[Happlication  ticket-server", times=2)
        os.kill(watcher.process.pid, number)
        assert watcher.process.wait(20) == 0
        watcher.shows(b"\x1b[?25h\x1b[?1049l")
        assert watcher.seen.startswith(b"\x1b[?1049h\x1b[?25l")
        assert b"\x1b[32mrunning" in watcher.seen
        assert termios.tcgetattr(watcher.its) == watcher.before
        watcher.shows(b"RESTARTS", times=3)  # the last page stays below


def test_watching_waits_for_a_daemon_that_is_not_there(config: Path) -> None:
    with watching(config, NO_COLOR="1") as watcher:
        watcher.shows(b"\x1b[H", times=2)
        assert b"no daemon" in watcher.seen
        os.kill(watcher.process.pid, signal.SIGINT)
        assert watcher.process.wait(20) == 0
        assert b"\x1b[3" not in watcher.seen
