"""The state file: written whole or not at all, kept aside when it cannot be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FORMAT: Final = 1

State = dict[str, object]


class StateUnusable(Exception):
    """The file is there and cannot be used; the message says why."""


def encode_state(state: Mapping[str, object], events: Iterable[str] | None = None) -> bytes:
    """Return the file's bytes; ``events`` are JSON texts already, None when ``state`` holds them itself.

    The lone surrogates of a path that is not UTF-8 survive as JSON escapes.
    """
    text = json.dumps({"format": FORMAT, **state}, separators=(",", ":"))
    if events is not None:
        text = f'{text[:-1]},"events":[{",".join(events)}]}}'
    return text.encode("ascii") + b"\n"


def decode_state(data: bytes) -> State:
    """Return what the file holds; raise StateUnusable when it is damaged or of another format."""
    try:
        state = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StateUnusable(f"it is not complete JSON ({error})") from error
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        raise StateUnusable("it has no format number")
    if state["format"] != FORMAT:
        raise StateUnusable(f"it has format {state['format']}, this rollbridge reads format {FORMAT}")
    return state


@dataclass(frozen=True, slots=True)
class LoadedState:
    """What an earlier daemon left; ``complaint`` says where an unusable file was put, empty when none was."""

    state: State
    complaint: str = ""


def load_state(path: str) -> LoadedState:
    """Read the state file; one that cannot be used is renamed aside and named in ``complaint``.

    Raises OSError when a file that is there cannot be read or moved: to start as if there were
    none would lose track of what runs.
    """
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            data = file.read()
    except FileNotFoundError:
        return LoadedState({})
    try:
        if found.st_uid not in (0, os.geteuid()):
            # It names pids that we would signal: nobody else may have written it.
            raise StateUnusable(f"it belongs to uid {found.st_uid}, not to uid {os.geteuid()}")
        return LoadedState(decode_state(data))
    except StateUnusable as error:
        aside = _free_name(path)
        Path(path).rename(aside)
        return LoadedState({}, f"state file {path} cannot be used: {error}. It is kept as {aside}")


def _free_name(path: str) -> str:
    number = 1
    while Path(f"{path}.unusable-{number}").exists():
        number += 1
    return f"{path}.unusable-{number}"


def write_state(path: str, data: bytes) -> None:
    """Replace the file by ``data`` so that a reader, or a power cut, finds the old or the new whole; raise OSError."""
    temporary = f"{path}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    Path(temporary).rename(path)
    directory = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
