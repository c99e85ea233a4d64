"""The pid file: for tools that want one. Nothing of ours trusts it; the lock and the identities do that work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def pid_file(path: str | None) -> Iterator[None]:
    """Hold our pid in ``path`` while the block runs; raise OSError when it cannot be written.

    Written whole under another name first, so that a reader never finds half a number. Removed only
    while it still holds our pid.
    """
    if path is None:
        yield
        return
    place = Path(path)
    own = _own_line()
    temporary = place.with_name(f"{place.name}.{os.getpid()}")
    temporary.write_text(own, encoding="ascii")
    temporary.replace(place)
    try:
        yield
    finally:
        remove_pid_file(path)


def remove_pid_file(path: str | None) -> None:
    """Remove the pid file while it holds our pid."""
    if path is None:
        return
    with contextlib.suppress(OSError):
        if Path(path).read_text(encoding="ascii") == _own_line():
            Path(path).unlink()


def _own_line() -> str:
    return f"{os.getpid()}\n"
