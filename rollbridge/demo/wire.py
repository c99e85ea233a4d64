"""The little HTTP/1.1 that the sample app and the demo's clients need on asyncio streams (RFC 9112).

On purpose no code of the proxy: what judges the product must not share its mistakes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

READ_BYTES: Final = 64 * 1024


class Truncated(Exception):
    """The connection ended inside a message."""


class BadMessage(Exception):
    """What arrived is not HTTP/1.1 as we speak it."""


@dataclass(frozen=True, slots=True)
class Head:
    """A start line and its fields, names lowercased, repeated ones joined by a comma."""

    start: str
    fields: Mapping[str, str]

    @property
    def is_chunked(self) -> bool:
        return self.fields.get("transfer-encoding", "").lower() == "chunked"

    def has_token(self, name: str, token: str) -> bool:
        return token in (part.strip().lower() for part in self.fields.get(name, "").split(","))


def parse_head(data: bytes) -> Head:
    """Parse a head, its empty line included. Raises BadMessage."""
    start, *lines = data.decode("latin-1").rstrip("\r\n").split("\r\n")
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadMessage(f"header line {line[:80]!r} does not start with a field name and a colon")
        name, value = name.lower(), value.strip(" \t")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return Head(start, fields)


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head, or None when the peer is done. Raises Truncated, BadMessage, OSError."""
    try:
        return parse_head(await reader.readuntil(b"\r\n\r\n"))
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise Truncated(f"connection closed after {len(error.partial)} bytes of a head") from None
        return None
    except asyncio.LimitOverrunError:
        raise BadMessage("the head is too long") from None


async def read_body(reader: asyncio.StreamReader, head: Head, *, is_response: bool) -> AsyncIterator[bytes]:
    """The body that follows ``head``, piece by piece, trailers dropped. Raises Truncated, BadMessage, OSError."""
    if head.is_chunked:
        async for piece in read_chunks(reader):
            yield piece
    elif "content-length" in head.fields:
        length = parse_length(head.fields["content-length"], 10)
        left = length
        while left:
            piece = await reader.read(min(left, READ_BYTES))
            if not piece:
                raise Truncated(f"connection closed after {length - left} of {length} bytes")
            left -= len(piece)
            yield piece
    elif is_response:
        while piece := await reader.read(READ_BYTES):
            yield piece


async def read_chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    received = 0
    try:
        while size := parse_length((await reader.readuntil(b"\r\n")).decode("latin-1").split(";")[0].strip(), 16):
            left = size
            while left:
                piece = await reader.read(min(left, READ_BYTES))
                if not piece:
                    raise Truncated(f"connection closed inside a chunk, after {received} bytes")
                left -= len(piece)
                received += len(piece)
                yield piece
            if await reader.readexactly(2) != b"\r\n":
                raise BadMessage("a chunk does not end where its size says")
        while await reader.readuntil(b"\r\n") != b"\r\n":
            continue  # a trailer
    except asyncio.IncompleteReadError:
        raise Truncated(f"connection closed before the last chunk, after {received} bytes") from None
    except asyncio.LimitOverrunError:
        raise BadMessage("a chunk's size line is too long") from None


def parse_length(text: str, base: int) -> int:
    try:
        length = int(text, base)
    except ValueError:
        length = -1
    if length < 0 or not text.isalnum():
        raise BadMessage(f"{text[:40]!r} is not a length")
    return length


def encode_chunk(data: bytes) -> bytes:
    """One chunk; of no data, the last one with the end of the body."""
    return b"%x\r\n%s\r\n" % (len(data), data)
