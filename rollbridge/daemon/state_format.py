"""The state file as bytes: sealed, so that damage is seen wherever it is, and upgraded from older formats. Pure.

The format number counts what an older rollbridge could not follow. A key that is only added does not change it: whoever
does not know a key ignores it, and takes over a state that a newer rollbridge wrote.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from rollbridge import __version__

FORMAT: Final = 1

State = dict[str, object]
Upgrade = Callable[[State], State]

# From the format that is the key to the next one. The first format has none before it.
UPGRADES: Final[Mapping[int, Upgrade]] = {}

_OWN_KEYS: Final = ("seal", "format", "version")
_SEAL: Final = re.compile(rb'\{"seal":"sha256:([0-9a-f]{64})",')


class StateUnusable(Exception):
    """The file is there and cannot be used; the message says why."""


class StateNewer(Exception):
    """The file is whole, and of a format that only a newer rollbridge reads; the message says which wrote it."""


def encode_state(state: Mapping[str, object], events: Iterable[str] | None = None) -> bytes:
    """Return the file's bytes; ``events`` are JSON texts already, None when ``state`` holds them itself.

    The lone surrogates of a path that is not UTF-8 survive as JSON escapes.
    """
    rest = {key: value for key, value in state.items() if key not in _OWN_KEYS}
    text = json.dumps({"format": FORMAT, "version": __version__, **rest}, separators=(",", ":"))
    if events is not None:
        text = f'{text[:-1]},"events":[{",".join(events)}]}}'
    body = text[1:].encode("ascii") + b"\n"
    return b'{"seal":"sha256:' + hashlib.sha256(body).hexdigest().encode("ascii") + b'",' + body


def decode_state(data: bytes) -> State:
    """Return what the file holds, in the present format.

    Raises StateUnusable when it is damaged, StateNewer when it is of a format to come.
    """
    sealed = _SEAL.match(data)
    if sealed is not None and hashlib.sha256(data[sealed.end() :]).hexdigest().encode("ascii") != sealed[1]:
        raise StateUnusable("it is damaged: its seal does not match what it holds")
    try:
        state = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StateUnusable(f"it is not complete JSON ({error})") from error
    if not isinstance(state, dict) or not _is_number(state.get("format")):
        raise StateUnusable("it has no format number")
    if sealed is None and "version" in state:
        # Whoever writes the version seals, so that what hit the seal may have hit more.
        raise StateUnusable("it is damaged: its seal is broken")
    state.pop("seal", None)
    if state["format"] > FORMAT:
        raise StateNewer(
            f"rollbridge {state.get('version', '(newer)')} wrote it in format {state['format']}, and this rollbridge "
            f"{__version__} reads up to format {FORMAT}"
        )
    return upgraded(state, FORMAT, UPGRADES)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def upgraded(state: State, target: int, upgrades: Mapping[int, Upgrade]) -> State:
    """Return ``state`` brought to format ``target`` one format at a time; StateUnusable when a step is not known."""
    while (found := state["format"]) != target:
        step = upgrades.get(found) if isinstance(found, int) else None
        if step is None:
            raise StateUnusable(f"it has format {found}, which no rollbridge that is still supported has written")
        state = {**step(state), "format": int(str(found)) + 1}
    return state
