"""One output file of one process: reading on from an offset, giving back disk space, noticing truncation."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from rollbridge.process.lines import LineBuffer
from rollbridge.process.linux import punch_hole

CHUNK_BYTES = 256 * 1024  # one read; splits into lines in about a millisecond when all of them are wanted
WINDOW_BYTES = 256 * 1024  # kept on disk behind the reader, for a look by hand and for the next daemon's last lines
PUNCH_STEP_BYTES = 1024 * 1024  # given back at a time; the runtime directory is often in memory (tmpfs), so not more
FLOOD_BYTES = 8 * 1024 * 1024  # further behind than this, the reader jumps ahead
FLOOD_RESUME_BYTES = 1024 * 1024  # what is still read of a flood after the jump
UNPUNCHED_BYTES = 64 * 1024 * 1024  # where holes cannot be punched, a file is emptied under its writer beyond this
REREAD_BYTES = 64 * 1024  # read again by a new daemon, so that its last lines do not begin empty
BLOCK_BYTES = 4096  # holes begin and end at blocks


class StreamFile:
    """``offset`` is what has been read, ``punched`` what has been given back, both from the file's start."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self._fd: int | None = None
        self._inode = 0
        self._offset = 0
        self._punched = 0
        self._seen = 0  # an earlier daemon has read as far
        self._can_punch = True
        self._must_resync = False  # the next bytes begin inside a line
        self._lines = LineBuffer()

    def open(self) -> list[str]:
        """Open by name, at the end of what is there; return the rest of a line the earlier file ended with."""
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise OSError(f"{self.path} is not a regular file; remove it")
        left_over = self.flush()
        is_same = found.st_ino == self._inode and found.st_size >= self._offset
        self.close()
        self._seen = 0
        if not is_same:  # never read, rotated away, or removed: what stands in it is not of this instance's run
            self._offset, self._punched = found.st_size, 0
        self._fd, self._inode = fd, found.st_ino
        return left_over

    def give_to(self, uid: int) -> None:
        """Let the file belong to ``uid``; raise OSError when that is not permitted."""
        if self._fd is not None and os.fstat(self._fd).st_uid != uid:
            os.fchown(self._fd, uid, -1)

    def adopt(self, place: Mapping[str, object], descriptor_path: str) -> None:
        """Continue at the recorded ``place``; ``descriptor_path`` finds a file that was renamed or deleted since."""
        inode, offset, punched = (place.get(key) for key in ("inode", "offset", "punched"))
        if not isinstance(inode, int) or not isinstance(offset, int) or not isinstance(punched, int):
            inode, offset, punched = None, 0, 0
        self.close()
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        for path in (str(self.path), descriptor_path):
            with contextlib.suppress(OSError):
                fd = os.open(path, flags | (os.O_NOFOLLOW if path == str(self.path) else 0) | os.O_NONBLOCK)
                found = os.fstat(fd)
                if stat.S_ISREG(found.st_mode) and inode in (None, found.st_ino):
                    self._fd, self._inode = fd, found.st_ino
                    self._punched = punched if punched <= found.st_size else 0
                    start = offset if offset <= found.st_size else 0
                    self._offset = max(self._punched, start - REREAD_BYTES)
                    self._must_resync = self._offset > 0
                    self._seen = start
                    return
                os.close(fd)

    def record(self) -> dict[str, object]:
        # The unfinished line is read again by the next daemon, so that it does not come torn.
        return {"inode": self._inode, "offset": self._offset - self._lines.pending_bytes, "punched": self._punched}

    def duplicate(self) -> int:
        if self._fd is None:
            raise OSError(errno.EBADF, "the output file is not open", str(self.path))
        return os.dup(self._fd)

    def size(self) -> int:
        return os.fstat(self._fd).st_size if self._fd is not None else 0

    def has_reached(self, goal: int) -> bool:
        return self._fd is None or self._offset >= min(goal, self.size())

    @property
    def is_rereading(self) -> bool:
        """Whether the next lines are those that an earlier daemon has read already; never some of both."""
        return self._offset < self._seen

    def read(self, last: int | None) -> tuple[list[str], int, int]:
        """One step: the lines it completed (the ``last`` of them), bytes read, bytes skipped before them."""
        if self._fd is None:
            return [], 0, 0
        size = self.size()
        if size < self._offset:  # truncated by somebody; appending writers go on from its new end
            self._offset, self._punched, self._seen = 0, 0, 0
        if size == self._offset:
            if not self._can_punch and self._offset > WINDOW_BYTES:
                self._empty()
            return [], 0, 0
        skipped = 0
        if size - self._offset > FLOOD_BYTES:
            skipped = size - FLOOD_RESUME_BYTES - self._offset
            self._offset += skipped
            self._must_resync = True
            self._lines = LineBuffer()
        wanted = min(CHUNK_BYTES, self._seen - self._offset) if self.is_rereading else CHUNK_BYTES
        data = os.pread(self._fd, wanted, self._offset)
        self._offset += len(data)
        count = len(data)
        if self._must_resync:
            self._must_resync = False
            # A line without end would be dropped for ever if we insisted on its end.
            data = data[data.find(b"\n") + 1 :]
        lines = self._lines.feed(data, last)
        if self._offset - self._punched > WINDOW_BYTES + PUNCH_STEP_BYTES:
            self._give_back()
        return lines, count, skipped

    def flush(self) -> list[str]:
        return self._lines.flush()

    def peek(self) -> str | None:
        return self._lines.peek()

    def seal(self) -> None:
        """Give back all but the window; the process has ended."""
        if self._fd is not None and self._offset - self._punched > WINDOW_BYTES:
            self._give_back()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _give_back(self) -> None:
        assert self._fd is not None
        end = (self._offset - WINDOW_BYTES) // BLOCK_BYTES * BLOCK_BYTES
        if self._can_punch:
            try:
                # From the very start: an earlier daemon may have died between punching and recording it.
                punch_hole(self._fd, 0, end)
                self._punched = end
                return
            except OSError:
                self._can_punch = False
        if self._offset > UNPUNCHED_BYTES:
            self._empty()

    def _empty(self) -> None:
        """Empty the file when everything in it was read: where holes are not to be had (NFS, some overlays).

        What is written between the look and the cut is lost. So this is done when nothing was written since the last
        look; only a file that would otherwise grow for ever is emptied under its writer.
        """
        if self._fd is not None and os.fstat(self._fd).st_size == self._offset:
            os.ftruncate(self._fd, 0)
            self._offset, self._punched = 0, 0
