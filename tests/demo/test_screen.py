from __future__ import annotations

import io
import pty
import termios

from rollbridge.demo.screen import ERASE_LINE, Screen, show_mix, terminal_width


class BrokenStream(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def new_screen(stream: io.StringIO, *, width: int | None, closed: list[bool] | None = None) -> Screen:
    times = iter(range(1000))
    record = [] if closed is None else closed
    return Screen(stream, width=width, clock=lambda: float(next(times)), on_closed=lambda: record.append(True))


def test_plain_output_has_no_control_characters_and_no_status() -> None:
    stream = io.StringIO()
    screen = new_screen(stream, width=None)
    screen.status("now")
    screen.step("deploy v1")
    screen.detail("started")
    screen.close()
    assert stream.getvalue() == "   1.0s deploy v1\n        | started\n"


def test_status_line_is_erased_for_a_line_and_drawn_again_below_it() -> None:
    stream = io.StringIO()
    screen = new_screen(stream, width=80)
    screen.status("one")
    screen.step("two")
    screen.close()
    status = "   1.0s one"
    assert stream.getvalue() == f"{ERASE_LINE}{status}{ERASE_LINE}   2.0s two\n{status}{ERASE_LINE}"


def test_no_line_is_wider_than_the_screen_and_nothing_is_left_out() -> None:
    stream = io.StringIO()
    screen = new_screen(stream, width=80)
    words = " ".join(f"word{number}" for number in range(100))
    screen.step(words)
    screen.detail(words)
    screen.status("x" * 300)
    for line in stream.getvalue().replace(ERASE_LINE, "").splitlines():
        assert len(line) < 80
    assert stream.getvalue().count("word57") == 2


def test_output_is_ascii_whatever_another_program_prints() -> None:
    stream = io.StringIO()
    new_screen(stream, width=None).detail("für \x1b[31m")
    assert stream.getvalue().isascii()
    assert "\x1b" not in stream.getvalue()


def test_closed_stream_is_told_once_and_never_raises() -> None:
    closed: list[bool] = []
    screen = new_screen(BrokenStream(), width=80, closed=closed)
    screen.step("one")
    screen.step("two")
    screen.close()
    assert closed == [True]


def test_line_stays_whole_where_nobody_watches() -> None:
    stream = io.StringIO()
    new_screen(stream, width=None).detail("x " * 300)
    assert stream.getvalue().count("\n") == 1


def test_only_a_terminal_that_can_erase_has_a_width() -> None:
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    with open(main, "rb"), open(terminal, "w") as stream:
        assert terminal_width(stream, {"TERM": "xterm"}) == 100
        assert terminal_width(stream, {"TERM": "dumb"}) is None
        assert terminal_width(stream, {}) is None
        termios.tcsetwinsize(terminal, (0, 0))
        assert terminal_width(stream, {"TERM": "xterm"}) == 80
    assert terminal_width(io.StringIO(), {"TERM": "xterm"}) is None


def test_mix_says_who_answers() -> None:
    assert show_mix({"v2": 3, "v1": 1}) == "v1 25%, v2 75%"
    assert show_mix({}) == "nobody answers"
