"""The runtime directory: made when it is missing, used only when nobody else can have a hand in it."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from typing import Final

# Others may pass through, to a socket they are permitted to use, and see nothing.
RUNTIME_DIR_MODE: Final = 0o711


class RuntimeDirError(Exception):
    """The runtime directory cannot be used; the message says why and what to do."""


def prepare_runtime_dir(path: str) -> None:
    """Make ``path`` (absolute) and what is missing above it; raise RuntimeDirError unless it is safely ours.

    Sockets, code and state lie in there, so nobody but root and us may be able to put another directory in
    its place: where every user may create names (``/tmp``), each part of the path must be root's or ours.
    """
    directory = Path(path)
    missing = [part for part in (directory, *directory.parents) if not os.path.lexists(part)]
    for part in reversed(missing):
        try:
            part.mkdir(RUNTIME_DIR_MODE)
        except FileExistsError:
            continue  # made by somebody else in this moment; whose it is, is checked below
        except OSError as error:
            raise RuntimeDirError(
                f"runtime directory {path} cannot be made: {part}: {error.strerror}. Make it for user {_our_name()}, "
                f"or set runtime_dir to a directory that {_our_name()} can write to"
            ) from error
        part.chmod(RUNTIME_DIR_MODE)  # whatever the umask
    for part in reversed((directory, *directory.parents)):
        _check_not_planted(part, path)
    _check_ours(directory)


def _check_not_planted(part: Path, path: str) -> None:
    """Raise RuntimeDirError when ``part`` may be the work of another user, in a directory where all may write."""
    above = part.parent.stat()
    if part == part.parent or not above.st_mode & stat.S_IWOTH:
        return
    if not above.st_mode & stat.S_ISVTX:
        raise RuntimeDirError(
            f"runtime directory {path} is not safe: every user may replace what is in {part.parent}. Set runtime_dir "
            f"to another directory, or run chmod o-w {part.parent}"
        )
    owner = part.lstat().st_uid
    if owner not in (0, os.geteuid()):
        raise RuntimeDirError(
            f"runtime directory {path} is not safe: {part} belongs to user {_name(owner)}. Remove it if it is not "
            f"wanted, or set runtime_dir to another directory"
        )


def _check_ours(directory: Path) -> None:
    found = directory.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise RuntimeDirError(
            f"runtime directory {directory} is a symbolic link. Remove it, or set runtime_dir to where it points"
        )
    if not stat.S_ISDIR(found.st_mode):
        raise RuntimeDirError(f"runtime directory {directory} is not a directory. Move it away, or change runtime_dir")
    if found.st_uid != os.geteuid():
        raise RuntimeDirError(
            f"runtime directory {directory} belongs to user {_name(found.st_uid)}, not to {_our_name()}. Run this as "
            f"{_name(found.st_uid)}, or set runtime_dir to a directory of your own"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        directory.chmod(RUNTIME_DIR_MODE)


def _our_name() -> str:
    return _name(os.geteuid())


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
