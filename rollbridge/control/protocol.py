"""The control protocol as pure functions: one JSON object a line, in both directions.

A client sends ``{"command": ...}`` and gets any number of ``{"progress": ...}``, then one object with ``status``
``"success"`` or ``"error"``; after that it may send the next request. Named tuples, not dataclasses: every client
command loads this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

# A request names paths and ids; a megabyte is far beyond any and small enough to hold one for every client.
MAX_REQUEST_BYTES: Final = 1024 * 1024
# An answer may hold a thousand events, or the last lines of a hundred processes.
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024

FAILED: Final = 1
ASKED_WRONGLY: Final = 2
REFUSED: Final = 4


class Peer(NamedTuple):
    """Who is at the other end of a socket, as the kernel tells it (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class BadMessage(Exception):
    """A line is not a message of this protocol; the text says why."""


class LineTooLong(BadMessage):
    """A line went over its limit; where the next one would begin is not known."""


class CommandError(Exception):
    """A handler's way to answer with an error; ``exit_code`` is the one the client command ends with."""

    def __init__(self, message: str, exit_code: int = FAILED, data: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.data: Mapping[str, object] = data or {}

    def answer(self) -> dict[str, object]:
        """Return the final object of the request."""
        return {**self.data, "status": "error", "error": self.message, "exit_code": self.exit_code}


def encode(message: Mapping[str, object]) -> bytes:
    """Return ``message`` as one line; lone surrogates of a path survive as JSON escapes."""
    return json.dumps(message, separators=(",", ":"), default=str).encode("ascii") + b"\n"


def decode(line: bytes) -> dict[str, object]:
    """Return the object on ``line``; raise BadMessage when it is not one JSON object in UTF-8."""
    try:
        message = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadMessage(f"the line is not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise BadMessage("the line is nested too deeply") from error
    except ValueError as error:
        raise BadMessage(f"the line is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise BadMessage(f"the line is a JSON {_json_kind(message)}, not an object")
    return message


def decode_request(line: bytes) -> dict[str, object]:
    """Return the request on ``line``; raise BadMessage unless it is an object with a ``command``."""
    request = decode(line)
    if not isinstance(request.get("command"), str):
        raise BadMessage('the request has no "command" string')
    return request


def is_observing(request: Mapping[str, object]) -> bool:
    """Whether ``request`` only watches, for as long as its client listens (``events`` and ``logs`` that follow)."""
    return request.get("follow") is True


def ask_again() -> dict[str, object]:
    """Return the final object for a request that was not begun and should be made again, on a new connection."""
    return {
        "status": "error",
        "error": "the daemon was upgraded in this moment, before it began with this. Run the command again",
        "exit_code": REFUSED,
        "again": True,
    }


def _json_kind(value: object) -> str:
    kinds = {bool: "boolean", str: "string", list: "array", type(None): "null"}
    return kinds.get(type(value), "number")


class LineReader:
    """Cuts bytes into lines, however they arrive; never holds more than one over-long line's limit."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._searched = 0  # no newline before this index: a line in many small pieces is searched once

    @property
    def is_empty(self) -> bool:
        return not self._buffer

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_line(self) -> bytes | None:
        """Return the next complete line without its newline, None when there is none yet.

        Raises LineTooLong when the line, complete or not, is over the limit.
        """
        end = self._buffer.find(b"\n", self._searched)
        length = end if end >= 0 else len(self._buffer)
        if length > self._limit_bytes:
            raise LineTooLong(f"the line is longer than {self._limit_bytes} bytes")
        if end < 0:
            self._searched = length
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line
