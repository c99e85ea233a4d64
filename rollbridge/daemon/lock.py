"""One daemon per application: a lock in the runtime directory that dies with its holder."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

LOCK_NAME: Final = "daemon.lock"


class LockHeld(Exception):
    """Another daemon holds the runtime directory; ``pid`` is None when it cannot be told."""

    def __init__(self, path: str, pid: int | None) -> None:
        who = f"pid {pid}" if pid is not None else "another process"
        super().__init__(f"a daemon of this application already runs ({who} holds {path})")
        self.pid = pid


class DaemonLock:
    """Holds ``<runtime_dir>/daemon.lock`` until ``release`` or until the process ends, however it ends."""

    def __init__(self, runtime_dir: str) -> None:
        """Take the lock; raise LockHeld when another process has it."""
        self.path = str(Path(runtime_dir, LOCK_NAME))
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = os.pread(self._descriptor, 32, 0).strip()
            os.close(self._descriptor)
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise LockHeld(self.path, int(text) if text.isdigit() else None) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    @classmethod
    def inherited(cls, runtime_dir: str, descriptor: int) -> DaemonLock:
        """Go on holding the lock through ``descriptor``, which the code that this process ran before held it by.

        A flock belongs to the open file, not to the program: it was not free for a moment.
        """
        lock = cls.__new__(cls)
        lock.path = str(Path(runtime_dir, LOCK_NAME))
        lock._descriptor = descriptor
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock

    @property
    def descriptor(self) -> int:
        return self._descriptor

    def release(self) -> None:
        """Give the lock back; the file stays, an unlinked lock file could be held twice."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # whoever else has it open: closing alone would not do
        os.close(self._descriptor)
