"""Where a body ends and how it is passed on (RFC 9112, section 6.3)."""

from __future__ import annotations

import enum
from typing import Final, TypeAlias

from rollbridge.proxy.chunked import BadFraming, ChunkedReader, encode_chunk, encode_end
from rollbridge.proxy.fields import Field
from rollbridge.proxy.request_fields import CHUNKED
from rollbridge.proxy.response_head import ResponseHead

_NO_TRAILERS: Final[list[Field]] = []


class Framing(enum.Enum):
    """How the end of a body is told."""

    NONE = "none"  # there is no body, whatever the head says
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


# Python 3.11 takes a tenth of a microsecond to find a member by its class, ten times a request.
NO_BODY: Final = Framing.NONE
LENGTH: Final = Framing.LENGTH
CHUNKED_BODY: Final = Framing.CHUNKED
UNTIL_CLOSE: Final = Framing.UNTIL_CLOSE


class LengthReader:
    """A body of a known number of bytes."""

    __slots__ = ("is_done", "left", "length", "rest")

    trailers = _NO_TRAILERS

    def __init__(self, length: int) -> None:
        self.length = length
        self.left = length
        self.is_done = length == 0
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return what of ``data`` belongs to the body; the bytes after it are in ``rest``."""
        size = len(data)
        if size < self.left:
            self.left -= size
            return data
        self.is_done = True
        if size == self.left:
            self.left = 0
            return data
        self.rest = data[self.left :]
        data = data[: self.left]
        self.left = 0
        return data

    @property
    def passed(self) -> int:
        """Bytes of the body so far."""
        return self.length - self.left

    def skip(self, size: int) -> None:
        """So many bytes of the body, not more than there are left, went another way."""
        self.left -= size
        self.is_done = self.left == 0


class CloseReader:
    """A body that ends with its connection."""

    __slots__ = ("is_done", "passed")

    rest = b""
    trailers = _NO_TRAILERS

    def __init__(self) -> None:
        self.is_done = False
        self.passed = 0  # bytes of the body so far

    def feed(self, data: bytes) -> bytes:
        self.passed += len(data)
        return data


Reader: TypeAlias = LengthReader | ChunkedReader | CloseReader


class BodyRelay:
    """One body on its way: read by its own framing, written in the other side's."""

    __slots__ = ("is_chunked_out", "reader")

    def __init__(self, reader: Reader, is_chunked_out: bool) -> None:
        self.reader = reader
        self.is_chunked_out = is_chunked_out

    def feed(self, data: bytes) -> bytes:
        """Return the bytes to pass on for ``data``; raise BadFraming."""
        reader = self.reader
        payload = reader.feed(data)
        if not self.is_chunked_out:
            return payload
        passed_on = encode_chunk(payload) if payload else b""
        return passed_on + encode_end(reader.trailers) if reader.is_done else passed_on

    def feed_end(self) -> bytes:
        """The sender has closed: return the bytes that end the body; raise BadFraming when it is cut short."""
        if not isinstance(self.reader, CloseReader):
            raise BadFraming("the connection ended before the body did")
        self.reader.is_done = True
        return encode_end(_NO_TRAILERS) if self.is_chunked_out else b""


def request_relay(body_bytes: int) -> BodyRelay:
    """The relay for a request body of RequestHead.body_bytes."""
    return BodyRelay(ChunkedReader(), True) if body_bytes == CHUNKED else BodyRelay(LengthReader(body_bytes), False)


def response_framing(head: ResponseHead, is_head_request: bool) -> Framing:
    """How the body of a final response is framed by the application."""
    if is_head_request or head.status in (204, 304):
        return NO_BODY
    if head.is_chunked:
        return CHUNKED_BODY
    return UNTIL_CLOSE if head.content_length is None else LENGTH


def client_framing(framing: Framing, is_http11: bool) -> Framing:
    """How the body that comes in ``framing`` is framed for a client; HTTP/1.0 knows no chunks."""
    if framing is CHUNKED_BODY or framing is UNTIL_CLOSE:
        return CHUNKED_BODY if is_http11 else UNTIL_CLOSE
    return framing


def response_relay(head: ResponseHead, framing: Framing, outgoing: Framing) -> BodyRelay:
    """The relay for a response whose ``framing`` is not NONE."""
    reader: Reader
    if framing is LENGTH:
        reader = LengthReader(head.content_length or 0)
    else:
        reader = ChunkedReader() if framing is CHUNKED_BODY else CloseReader()
    return BodyRelay(reader, outgoing is CHUNKED_BODY)
