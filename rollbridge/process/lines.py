"""Bytes into lines, for output of any shape: no newline, broken UTF-8, lines without end. Pure."""

from __future__ import annotations

MAX_LINE_BYTES = 16 * 1024  # longer lines are cut: last lines go into status and messages, where nobody reads more


class LineBuffer:
    """Collects one stream's bytes; gives complete lines, without their newline, as they complete."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._dropped = 0  # bytes of the pending line beyond the limit

    @property
    def pending_bytes(self) -> int:
        """How much was fed since the last newline."""
        return len(self._pending) + self._dropped

    def feed(self, chunk: bytes, last: int | None = None) -> list[str]:
        """Return the lines that ``chunk`` completes; with ``last``, only that many of them, the latest.

        Asking for the last few costs little more than finding newlines, however many lines there are.
        """
        first_newline = chunk.find(b"\n")
        if first_newline < 0:
            self._extend(chunk)
            return []
        self._extend(chunk[:first_newline])
        completed = self._take()
        last_newline = chunk.rfind(b"\n")
        rest = chunk[last_newline + 1 :]
        self._extend(rest)
        if last_newline == first_newline:
            return [completed] if last is None or last > 0 else []
        middle = chunk[first_newline + 1 : last_newline]
        if last is None:
            return [completed, *(decode_line(line) for line in middle.split(b"\n"))]
        if last <= 0:
            return []
        parts = middle.rsplit(b"\n", last)
        if len(parts) > last:
            return [decode_line(line) for line in parts[-last:]]
        return [completed, *(decode_line(line) for line in parts)][-last:]

    def flush(self) -> list[str]:
        """Return what stands after the last newline as a line, if anything does; the stream is at its end."""
        return [self._take()] if self.pending_bytes else []

    def peek(self) -> str | None:
        """Return the unfinished line as it stands; None when there is none."""
        return decode_line(bytes(self._pending), self._dropped) if self.pending_bytes else None

    def _extend(self, data: bytes) -> None:
        room = MAX_LINE_BYTES - len(self._pending)
        self._pending += data[:room]
        self._dropped += max(0, len(data) - room)

    def _take(self) -> str:
        line = decode_line(bytes(self._pending), self._dropped)
        self._pending.clear()
        self._dropped = 0
        return line


def decode_line(line: bytes, dropped: int = 0) -> str:
    """One line as text: broken UTF-8 becomes U+FFFD, a carriage return at the end goes, what is too long is cut."""
    cut = dropped + max(0, len(line) - MAX_LINE_BYTES)
    text = line[:MAX_LINE_BYTES].decode("utf-8", "replace")
    return f"{text} … [{cut} more bytes cut]" if cut else text.removesuffix("\r")
