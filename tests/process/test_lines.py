"""Bytes into lines."""

from __future__ import annotations

from rollbridge.process.lines import MAX_LINE_BYTES, LineBuffer

TEXT = b"one\ntwo\r\n\nb\xffd \xc3\xa9\nthree\nrest"
LINES = ["one", "two", "", "b\ufffdd \u00e9", "three"]


def test_lines_are_the_same_however_the_bytes_arrive() -> None:
    for cut in range(len(TEXT) + 1):
        buffer = LineBuffer()
        assert [*buffer.feed(TEXT[:cut]), *buffer.feed(TEXT[cut:])] == LINES
        assert buffer.peek() == "rest"
        assert buffer.flush() == ["rest"]
        assert buffer.flush() == []


def test_asking_for_the_last_few_gives_the_end_of_all() -> None:
    for last in range(8):
        for cut in range(len(TEXT) + 1):
            buffer, kept = LineBuffer(), []
            for chunk in (TEXT[:cut], TEXT[cut:]):
                kept += buffer.feed(chunk, last)
            assert (kept[-last:] if last else kept) == (LINES[-last:] if last else [])


def test_long_line_is_cut_and_says_so() -> None:
    for size, cut in ((MAX_LINE_BYTES, 0), (MAX_LINE_BYTES + 1, 1), (MAX_LINE_BYTES * 9, MAX_LINE_BYTES * 8)):
        buffer = LineBuffer()
        (line,) = buffer.feed(b"x" * size + b"\n")
        assert line == "x" * MAX_LINE_BYTES + (f" … [{cut} more bytes cut]" if cut else "")
        assert buffer.feed(b"next\n") == ["next"]


def test_memory_stays_bounded_without_any_newline() -> None:
    buffer = LineBuffer()
    for _ in range(1000):
        assert buffer.feed(b"y" * 10_000) == []
    assert buffer.pending_bytes == 10_000_000
    assert len(buffer.flush()[0]) < MAX_LINE_BYTES + 100
