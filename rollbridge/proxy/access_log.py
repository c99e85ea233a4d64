"""The access log: lines gather for a second at most, then one write appends them to the file."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from rollbridge.proxy.access_line import Asked, Network, access_line, real_client, utc
from rollbridge.proxy.fields import Field
from rollbridge.proxy.loop import Loop
from rollbridge.proxy.timers import NEVER

# Lines wait so long at most, and so long the old file of a rotation may still be written.
FLUSH_SECONDS: Final = 1.0
FLUSH_BYTES: Final = 64 * 1024
# What is kept while the file cannot be written; what comes on top is lost, and counted.
MAX_WAITING_BYTES: Final = 1024 * 1024
MODE: Final = 0o640
# Of which no line is made yet. With longer targets, which would take much memory, it is made at once.
MAX_NOTES: Final = 64
LONG_TARGET_BYTES: Final = 1024
# When a request began (the loop's monotonic seconds), and all else that access_line takes, in its order.
Note: TypeAlias = tuple[float, str, Asked, int | None, int, int, str, float | None, float, bool]
# Who is behind which X-Forwarded-For is remembered for so many of so many bytes: longer ones are not the usual ones.
MAX_REMEMBERED: Final = 10_000
MAX_REMEMBERED_BYTES: Final = 256


class AccessLog:
    """One worker's hold on the file. Workers share it: each appends whole lines, in one write."""

    def __init__(self, loop: Loop, path: str, trusted: tuple[str, ...], report: Callable[..., None]) -> None:
        self.path = path
        self.deadline = NEVER
        self.queued_for = NEVER
        self._loop = loop
        self._report = report
        self._trusted: list[Network] = [ipaddress.ip_network(network, strict=False) for network in trusted]
        self._notes: list[Note] = []
        self._lines: list[str] = []
        self._waiting_bytes = 0
        self._lost = 0
        self._is_failing = False
        self._fd: int | None = None
        self._file = (0, 0)  # device and inode of what is open
        self._wall_offset = time.time() - time.monotonic()
        self._second = (0, "")
        self._stamp = (0.0, "")
        self._clients: dict[tuple[bytes, tuple[Field, ...]], str] = {}
        self._open()

    def note(self, note: Note) -> None:
        """Keep what a line is made of: made one after the other, lines cost a third less than between other work."""
        notes = self._notes
        if not notes and self.deadline == NEVER:
            self._loop.deadlines.set(self, self._loop.now + FLUSH_SECONDS)
        notes.append(note)
        asked = note[2]
        if len(notes) >= MAX_NOTES or (asked is not None and len(asked[1]) > LONG_TARGET_BYTES):
            self._make_lines()

    def _make_lines(self) -> None:
        notes, self._notes = self._notes, []
        for began_at, client, asked, status, asked_bytes, answer_bytes, upstream, first, total, is_complete in notes:
            at = self.timestamp(began_at)
            self.add(
                access_line(at, client, asked, status, asked_bytes, answer_bytes, upstream, first, total, is_complete)
            )

    def add(self, line: str) -> None:
        lines = self._lines
        if (
            not lines and self.deadline == NEVER
        ):  # however often it is written: whether it was rotated is seen every second
            self._loop.deadlines.set(self, self._loop.now + FLUSH_SECONDS)
        lines.append(line)
        waiting_bytes = self._waiting_bytes = self._waiting_bytes + len(line)
        if waiting_bytes >= FLUSH_BYTES:
            self._gathered_enough()

    def _gathered_enough(self) -> None:
        if not self._is_failing:
            self._write()
        elif self._waiting_bytes > MAX_WAITING_BYTES:
            self._waiting_bytes -= len(self._lines.pop())
            self._lost += 1

    def expired(self) -> None:
        """A second has passed since the first of the lines that wait."""
        self._make_lines()
        self._wall_offset = time.time() - time.monotonic()  # the clock may have been set
        if self._fd is None or self._has_moved():
            self._open()
        self._write()
        if self._lines:
            self._loop.deadlines.set(self, self._loop.now + FLUSH_SECONDS)

    def close(self) -> None:
        """Write what waits, as far as it can be written."""
        if self._notes or self._lines:
            self.expired()
        self._loop.deadlines.forget(self)
        self._close_file()

    # What a line needs, remembered as far as it repeats.

    def timestamp(self, at: float) -> str:
        """``at`` (the loop's monotonic seconds) as UTC with milliseconds."""
        if self._stamp[0] != at:  # those of one turn of the loop have the same
            wall = at + self._wall_offset
            second = int(wall)
            if self._second[0] != second:
                self._second = (second, utc(second))
            self._stamp = (at, f"{self._second[1]}.{int((wall - second) * 1000):03}Z")
        return self._stamp[1]

    def client(self, peer: bytes, forwarded: list[Field]) -> str:
        """Who is behind the trusted ``peer``."""
        key = (peer, tuple(forwarded))
        client = self._clients.get(key)
        if client is None:
            client = real_client(peer, forwarded, self._trusted)
            if sum(len(value) for _, value in forwarded) <= MAX_REMEMBERED_BYTES:
                if len(self._clients) >= MAX_REMEMBERED:
                    self._clients.clear()
                self._clients[key] = client
        return client

    # The file.

    def _has_moved(self) -> bool:
        """Whether the path leads elsewhere than to what is open: it was rotated, or deleted."""
        try:
            found = os.stat(self.path)  # noqa: PTH116  # a Path for every second and worker is a waste
        except OSError:
            return True
        return (found.st_dev, found.st_ino) != self._file

    def _open(self) -> None:
        self._close_file()
        try:
            # Neither wait for the reader of a pipe nor become a terminal's.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            self._fd = os.open(self.path, flags, MODE)
            found = os.fstat(self._fd)
            self._file = (found.st_dev, found.st_ino)
        except OSError as error:
            self._fail(error)

    def _close_file(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _write(self) -> None:
        if self._fd is None or not self._lines:
            return
        data = "".join(self._lines).encode()
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            self._fail(error)
            return
        rest = data[written:].decode()
        self._lines = [rest] if rest else []
        self._waiting_bytes = len(rest)
        if self._is_failing and not rest:
            self._is_failing = False
            self._report("access log written again", {"path": self.path, "lost_lines": self._lost})
            self._lost = 0

    def _fail(self, error: OSError) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._report("access log cannot be written", {"path": self.path, "error": error.strerror or str(error)})
