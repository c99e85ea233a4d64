"""The state file: written whole or not at all, with the one before it kept; put aside when it cannot be used."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from rollbridge.daemon.state_format import FORMAT as FORMAT
from rollbridge.daemon.state_format import State as State
from rollbridge.daemon.state_format import StateNewer as StateNewer
from rollbridge.daemon.state_format import StateUnusable as StateUnusable
from rollbridge.daemon.state_format import decode_state as decode_state
from rollbridge.daemon.state_format import encode_state as encode_state


@dataclass(frozen=True, slots=True)
class LoadedState:
    """What an earlier daemon left.

    ``complaint`` says why the file cannot be used; empty when it can, or when there is none. ``is_whole`` False: it
    may not tell of everything that lives, being the one before the last, or nothing at all.
    """

    state: State
    complaint: str = ""
    is_there: bool = True
    is_whole: bool = True


def previous_path(path: str) -> str:
    """Return where the state before the last is kept."""
    return f"{path}.previous"


def read_state_file(path: str) -> LoadedState:
    """Read the state file, or the one before it when it is damaged, and change nothing.

    Raises OSError when a file that is there cannot be read: to go on as if there were none would lose track of what
    runs. Raises StateNewer when only a newer rollbridge can read it.
    """
    try:
        return LoadedState(decode_state(_read(path)))
    except FileNotFoundError:
        # Nobody but an operator removes it, and that is to begin afresh: the one before it is not brought back.
        return LoadedState({}, is_there=False, is_whole=False)
    except StateUnusable as error:
        complaint = f"state file {path} cannot be used: {error}"
    except StateNewer as error:
        raise StateNewer(f"state file {path} is not touched: {error}") from error
    try:
        state = decode_state(_read(previous_path(path)))
    except (OSError, StateUnusable, StateNewer):
        return LoadedState({}, complaint, is_whole=False)
    return LoadedState(state, f"{complaint}. Used is the one before it, of {state.get('written_at')}", is_whole=False)


def _read(path: str) -> bytes:
    # Not to wait for ever for the other end of a pipe that somebody has put there.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise StateUnusable("it is not a regular file")
        if found.st_uid not in (0, os.geteuid()):
            # It names pids that we would signal: nobody else may have written it.
            raise StateUnusable(f"it belongs to uid {found.st_uid}, not to uid {os.geteuid()}")
        return file.read()


def load_state(path: str) -> LoadedState:
    """Read the state file as ``read_state_file`` does; one that cannot be used is put aside and named in ``complaint``.

    When the one before it is used, it takes the place. Raises OSError also for a file that cannot be moved.
    """
    loaded = read_state_file(path)
    if not loaded.complaint:
        return loaded
    aside = _free_name(path)
    if loaded.state:
        # At no moment is there none: a daemon that is killed just now must not leave the next one with less.
        os.link(path, aside)
        temporary = f"{path}.new"
        Path(temporary).unlink(missing_ok=True)
        os.link(previous_path(path), temporary)
        Path(temporary).rename(path)
    else:
        Path(path).rename(aside)
    complaint = f"{loaded.complaint}. It is kept as {aside}"
    return LoadedState(loaded.state, complaint, is_whole=False)


def _free_name(path: str) -> str:
    number = 1
    while os.path.lexists(f"{path}.unusable-{number}"):
        number += 1
    return f"{path}.unusable-{number}"


def write_state(path: str, data: bytes) -> None:
    """Replace the file by ``data`` so that a reader, or a power cut, finds the old or the new whole; raise OSError.

    The old one stays as ``previous_path``, where the file system has hard links.
    """
    temporary = f"{path}.new"
    # Not emptied and used again: it may be another name of the file before the last.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)  # noqa: PTH108
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        # A full disk is not to be kept full by what could not be written.
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise
    _keep_previous(path)
    Path(temporary).rename(path)
    directory = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _keep_previous(path: str) -> None:
    """Give the present file its second name. Without one (no hard links here) there is just no previous state."""
    temporary = f"{path}.previous.new"
    with contextlib.suppress(OSError):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108
        os.link(path, temporary)
        # Renamed, not linked in place: there is always a previous one. Where both names are of one file already,
        # rename does nothing and leaves the new name (rename(2)).
        os.rename(temporary, previous_path(path))  # noqa: PTH104
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108
