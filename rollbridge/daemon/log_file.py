"""Keeps the daemon's own logs in the runtime directory from growing without end: it is often in memory."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from rollbridge.proxy.log_descriptor import use_instead

LOG_LIMIT_BYTES: Final = 8 * 1024 * 1024  # some 40,000 events; with the one file kept before, twice that on disk


def rotate_log(descriptor: int, path: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> bool:
    """Move ``path`` aside to ``<path>.1`` and let ``descriptor`` write a new file, when it has reached the limit.

    Only when ``descriptor`` is open on exactly that file: a log that the operator put elsewhere, or
    that another tool has just rotated, is not ours to move. Returns whether it was rotated.
    """
    try:
        own, named = os.fstat(descriptor), path.lstat()
        is_ours = stat.S_ISREG(named.st_mode) and (own.st_dev, own.st_ino) == (named.st_dev, named.st_ino)
        if not is_ours or own.st_size < limit_bytes:
            return False
        path.replace(f"{path}.1")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fresh = os.open(path, flags, stat.S_IMODE(own.st_mode))
    except OSError:
        # A log that cannot be rotated goes on as it is; losing lines would be worse than a large file.
        return False
    try:
        use_instead(descriptor, fresh)
    finally:
        os.close(fresh)
    return True


def bound_file(path: Path, limit_bytes: int) -> None:
    """Move ``path`` aside to ``<path>.1`` when it has reached the limit; for a file that is opened anew each time."""
    with contextlib.suppress(OSError):
        if path.stat().st_size >= limit_bytes:
            path.replace(f"{path}.1")
