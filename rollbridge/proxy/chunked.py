"""The chunked transfer coding, both ways (RFC 9112, section 7.1). Extensions are bounded, checked and dropped."""

from __future__ import annotations

import re
from typing import Final

from rollbridge.proxy.fields import FIELD_BLOCK, FORBIDDEN, TOKEN_CLASS, Field, join_fields, split_fields

# Fifteen digits are an exabyte; sixteen would leave the signed 64-bit range.
_SIZE: Final = rb"([0-9A-Fa-f]{1,15})"
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSION: Final = (
    rb"(?:[ \t]*+;[ \t]*+" + TOKEN_CLASS + rb"++(?:[ \t]*+=[ \t]*+(?:" + TOKEN_CLASS + rb"++|" + _QUOTED + rb"))?)*"
)
_CHUNK_LINE: Final = re.compile(_SIZE + _EXTENSION + rb"\r\n")
_LINE_START: Final = re.compile(rb"[0-9A-Fa-f]{1,15}+(?:[ \t;\r]|\Z)")

MAX_CHUNK_LINE_BYTES: Final = 4096
# All extensions of one body together: nobody uses them, and a byte of body may cost kilobytes of them otherwise.
MAX_EXTENSION_BYTES: Final = 16 * 1024
MAX_TRAILER_BYTES: Final = 16 * 1024

# What may not come late (RFC 9110, section 6.5.1): framing, routing, authentication, request modifiers and whatever
# we or the application decide on before the body is over. Dropped, not refused: they are well-formed.
_FORBIDDEN_TRAILERS: Final = frozenset(
    b"transfer-encoding content-length content-encoding content-type content-range trailer host connection te upgrade"
    b" keep-alive via forwarded expect range max-forwards cache-control pragma authorization cookie set-cookie proxy"
    b" www-authenticate age date expires location retry-after vary warning x-real-ip".split()
)
_FORBIDDEN_PREFIXES: Final = (b"x-forwarded-", b"proxy-", b"if-")


class BadFraming(Exception):
    """A body whose bytes do not follow its framing."""


class ChunkedReader:
    """Decodes a chunked body that arrives piecemeal."""

    __slots__ = ("_announced", "_extension_bytes", "_left", "_pending", "_phase", "is_done", "rest", "trailers")

    _SIZE, _DATA, _DATA_END, _TRAILERS = range(4)

    def __init__(self) -> None:
        self.is_done = False
        self.rest = b""  # what follows the body, once it is done
        self.trailers: list[Field] = []
        self._left = 0
        self._announced = 0
        self._pending = b""
        self._phase = self._SIZE
        self._extension_bytes = 0

    @property
    def passed(self) -> int:
        """Bytes of payload so far."""
        return self._announced - self._left

    def feed(self, data: bytes) -> bytes:
        """Return the payload in ``data``; sets ``is_done``, ``rest`` and ``trailers`` at the end. Raises BadFraming."""
        seen = len(self._pending)  # an earlier call has looked at so many bytes of data in vain
        if seen:
            data = self._pending + data
            self._pending = b""
        pieces: list[bytes] = []
        at = 0
        end = len(data)
        while not self.is_done:
            if self._phase == self._DATA:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    break
                self._phase = self._DATA_END
            if self._phase == self._DATA_END:
                if not b"\r\n".startswith(data[at : at + 2]):
                    raise BadFraming("a chunk is longer than its size says")
                if end - at < 2:
                    self._pending = data[at:]
                    break
                at += 2
                self._phase = self._SIZE
            if self._phase == self._SIZE:
                is_still_open = at < seen and data.find(b"\n", seen) < 0
                match = None if is_still_open else _CHUNK_LINE.match(data, at)
                if match is None or match.end() - at > MAX_CHUNK_LINE_BYTES:
                    self._pending = _unfinished_size(data[at:], max(0, seen - at))
                    break
                self._extension_bytes += match.end() - match.end(1) - 2
                if self._extension_bytes > MAX_EXTENSION_BYTES:
                    raise BadFraming("the chunks' extensions are too large")
                self._left = int(match[1], 16)
                self._announced += self._left
                at = match.end()
                self._phase = self._DATA if self._left else self._TRAILERS
            if self._phase == self._TRAILERS and not self._read_trailers(data, at, seen):
                self._pending = data[at:]
                break
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    def _read_trailers(self, data: bytes, at: int, seen: int) -> bool:
        if data.startswith(b"\r\n", at):
            self.is_done = True
            self.rest = data[at + 2 :]
            return True
        end = data.find(b"\r\n\r\n", max(at, seen - 3), at + MAX_TRAILER_BYTES)
        if end < 0:
            if len(data) - at >= MAX_TRAILER_BYTES:
                raise BadFraming("the trailers are too large")
            if FORBIDDEN.search(data, max(at, seen - 1)) is not None:
                raise BadFraming("the trailers hold a control character or a line that does not end in CR LF")
            return False
        if FIELD_BLOCK.fullmatch(data, at, end + 2) is None:
            raise BadFraming("the trailers are not header fields")
        self.trailers = [field for field in split_fields(data, at, end + 2) if _may_trail(field[0].lower())]
        self.is_done = True
        self.rest = data[end + 4 :]
        return True


def encode_chunk(payload: bytes) -> bytes:
    """Return ``payload`` (not empty: that would end the body) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def encode_end(trailers: list[Field]) -> bytes:
    """Return the last chunk, the trailers and the empty line."""
    return b"0\r\n%b\r\n" % join_fields(trailers) if trailers else b"0\r\n\r\n"


def _unfinished_size(line: bytes, seen: int) -> bytes:
    """Return ``line`` when it may still become a chunk's size line; raise BadFraming when it never will.

    An earlier call has found nothing wrong with its first ``seen`` bytes.
    """
    if line and (
        line.find(b"\r\n", max(0, seen - 1)) >= 0
        or len(line) > MAX_CHUNK_LINE_BYTES
        or FORBIDDEN.search(line, max(0, seen - 1)) is not None
        or _LINE_START.match(line) is None
    ):
        raise BadFraming("a chunk's size line is not a hexadecimal number with optional extensions")
    return line


def _may_trail(name: bytes) -> bool:
    name = name.replace(b"_", b"-")  # many applications cannot tell the two apart
    return name not in _FORBIDDEN_TRAILERS and not name.startswith(_FORBIDDEN_PREFIXES)
