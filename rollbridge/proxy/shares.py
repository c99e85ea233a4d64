"""How many clients each worker of one port has: in a file that all of them map, so that they can share evenly."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

NAME: Final = "workers.load"
# Of each worker, by its index: its pid (0: takes no clients) and how many it has.
SLOTS: Final = 64
_SLOT_BYTES: Final = 8
_SIZE: Final = SLOTS * _SLOT_BYTES


class Shares:
    """One worker's view of the file: its own slot to write, the others' to read.

    Without the file (it cannot be made, or the index is too high) it is as if there were no other worker: each then
    takes what it gets. So it is when a directory was emptied under living workers, for those started before and after.
    """

    def __init__(self, directory: Path, index: int) -> None:
        self._pid = os.getpid()
        self._index = index
        self._slots: memoryview | None = None
        if index < SLOTS:
            with contextlib.suppress(OSError, ValueError):
                self._slots = _map(directory / NAME)

    def publish(self, clients: int) -> None:
        """So many clients has this worker now, and it takes more."""
        if self._slots is not None:
            self._slots[2 * self._index + 1] = clients
            self._slots[2 * self._index] = self._pid

    def withdraw(self) -> None:
        """This worker takes no more clients: nobody has to leave any to it."""
        if self._slots is not None and self._slots[2 * self._index] == self._pid:
            self._slots[2 * self._index] = 0

    def others(self) -> Sequence[int]:
        """The clients of each other worker that takes any."""
        slots = self._slots
        if slots is None:
            return ()
        found = []
        for index, pid in enumerate(slots[::2].tolist()):
            if pid and index != self._index:
                if _is_alive(pid):
                    found.append(slots[2 * index + 1])
                elif slots[2 * index] == pid:
                    slots[2 * index] = 0  # killed; whoever replaces it has a pid of its own
        return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's by now; the worker that takes the slot next writes over it
    return True


def _map(path: Path) -> memoryview:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        if os.fstat(fd).st_size < _SIZE:
            os.ftruncate(fd, _SIZE)  # what is new is zero; workers that start at the same time do the same
        return memoryview(mmap.mmap(fd, _SIZE)).cast("I")
    finally:
        os.close(fd)
