"""A log that is written through a descriptor which somebody else opened: stderr, in most cases."""

from __future__ import annotations

import contextlib
import os
import stat

STDOUT = 1


def log_path(descriptor: int) -> str | None:
    """Return the file that ``descriptor`` writes to, None when it is no regular file or has no name any more.

    To be asked early: after a rotation the answer is the old file's new name.
    """
    try:
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115  # pathlib is not imported for a worker
        own, named = os.fstat(descriptor), os.lstat(path)
    except OSError:
        return None
    is_it = (own.st_dev, own.st_ino) == (named.st_dev, named.st_ino)
    return path if is_it and stat.S_ISREG(own.st_mode) else None


def reopen(descriptor: int, path: str) -> bool:
    """Let ``descriptor`` write to the file that ``path`` names now, made if need be; return whether it was another.

    Stdout goes with it when both were the same file. Raises OSError, and then everything is as it was.
    """
    own = os.fstat(descriptor)
    with contextlib.suppress(FileNotFoundError):
        named = os.lstat(path)
        if (own.st_dev, own.st_ino) == (named.st_dev, named.st_ino):
            return False
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
    fresh = os.open(path, flags, stat.S_IMODE(own.st_mode))
    try:
        if not stat.S_ISREG(os.fstat(fresh).st_mode):
            raise OSError(f"{path} is not a regular file")
        use_instead(descriptor, fresh)
    finally:
        os.close(fresh)
    return True


def use_instead(descriptor: int, fresh: int) -> None:
    """Let ``descriptor`` be what ``fresh`` is, and stdout too when it was the same file."""
    own = os.fstat(descriptor)
    os.dup2(fresh, descriptor, inheritable=True)
    with contextlib.suppress(OSError):
        stdout = os.fstat(STDOUT)
        if (stdout.st_dev, stdout.st_ino) == (own.st_dev, own.st_ino):  # started in the background, both are the log
            os.dup2(fresh, STDOUT, inheritable=True)
