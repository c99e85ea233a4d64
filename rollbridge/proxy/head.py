"""Request heads: bytes to a RequestHead in one pass, or a BadRequest with the answer to send."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from rollbridge.proxy.fields import FIELD_BLOCK, FIELD_LINES, FORBIDDEN, TOKEN, TOKEN_CLASS, Field
from rollbridge.proxy.remembered import Remembered
from rollbridge.proxy.request_fields import HOST, BadRequest, RequestFields, understand_fields


@dataclass(slots=True)
class RequestHead:
    """One request head, understood. Not frozen: a frozen dataclass costs a microsecond more per request.

    What is not commented here is as in RequestFields.
    """

    method: bytes
    target: bytes  # origin-form or "*"; absolute-form is reduced to origin-form
    is_http11: bool
    host: bytes | None  # of the absolute target or of Host; None only for HTTP/1.0
    fields: list[Field]
    forwarded: list[Field]
    via: bytes | None
    body_bytes: int
    has_length: bool
    keep_alive: bool
    upgrade: bytes | None
    expects_continue: bool
    accepts_trailers: bool
    lines: bytes


# Field lines and the empty line behind them, by the bytes of all of these; HTTP/1.1 only. The request line is not among
# them: the requests of one client differ in their targets, much less in their fields.
KnownFields: TypeAlias = Remembered[RequestFields]

_REQUEST_LINE: Final = re.compile(rb"(" + TOKEN_CLASS + rb"++) ([!-~]++) HTTP/1\.([01])\r\n")
_FIELDS: Final = re.compile(FIELD_LINES + rb"\r\n")
_ANY_VERSION: Final = re.compile(TOKEN_CLASS + rb"++ [!-~]++ HTTP/([0-9])\.([0-9])")
_ABSOLUTE: Final = re.compile(rb"(?i:http(s?))://([^/?#]*+)([^#]*+)")


class HeadReader:
    """Finds the end of a request head in bytes that arrive piecemeal; refuses early what can never become one."""

    __slots__ = ("_has_skipped", "_known", "_scanned", "buffer", "limit_bytes")

    def __init__(self, limit_bytes: int, known: KnownFields | None = None) -> None:
        """``known`` may be shared by all readers: it changes what a head costs, and nothing else."""
        self.limit_bytes = limit_bytes
        self.buffer = b""
        self._known = known
        self._scanned = 0
        self._has_skipped = False

    def feed(self, data: bytes) -> tuple[RequestHead, bytes] | None:
        """Return the head and the bytes after it, or None while it is incomplete; raise BadRequest."""
        if not self.buffer:
            # The usual case: the whole head in one piece.
            line = _REQUEST_LINE.match(data)
            if line is not None:
                end = data.find(b"\r\n\r\n", line.end() - 2) + 4
                if 4 <= end <= self.limit_bytes:
                    self._has_skipped = False
                    return _read(data, line, end, self._known), data[end:]
        return self._feed_slowly(self.buffer + data if self.buffer else data)

    def _feed_slowly(self, data: bytes) -> tuple[RequestHead, bytes] | None:
        if not self._has_skipped and data.startswith(b"\r\n"):
            # One empty line before a request is to be ignored (RFC 9112, section 2.2).
            data = data[2:]
            self._has_skipped = True
            self._scanned = 0
        end = data.find(b"\r\n\r\n", max(0, self._scanned - 3)) + 4
        if 4 <= end <= self.limit_bytes:
            line = _REQUEST_LINE.match(data)
            if line is None:
                raise _diagnose(data[:end])
            self.buffer = b""
            self._scanned = 0
            self._has_skipped = False
            return _read(data, line, end, self._known), data[end:]
        if FORBIDDEN.search(data, max(0, self._scanned - 1), self.limit_bytes) is not None:
            raise _diagnose(data)
        if len(data) >= self.limit_bytes:
            raise _too_large(data, self.limit_bytes)
        self.buffer = data
        self._scanned = len(data)
        return None


def parse_request_head(data: bytes) -> RequestHead:
    """Parse one complete request head, empty line included; raise BadRequest."""
    line = _REQUEST_LINE.match(data)
    if line is None or data.find(b"\r\n\r\n", line.end() - 2) != len(data) - 4:
        raise _diagnose(data)
    return _read(data, line, len(data), None)


def _read(data: bytes, line: re.Match[bytes], end: int, known: KnownFields | None) -> RequestHead:
    """Understand the head that ends with the first empty line after the request line, at ``end``."""
    method, target, minor = line.group(1, 2, 3)
    is_http11 = minor == b"1"
    block = data[line.end() : end]
    said = known.recall(block) if known is not None and is_http11 else None
    if said is None:
        if _FIELDS.fullmatch(block) is None:
            raise _diagnose(data[:end])
        said = understand_fields(block, is_http11)
        if known is not None and is_http11:
            known.learn(block, said, len(block) + said.size_bytes)
    host = said.host
    if target[0] != 47 or b"#" in target:  # not "/..."
        target, host = _reduce_target(method, target, host)
    elif method == b"CONNECT":
        raise _refused_connect()
    return RequestHead(
        method,
        target,
        is_http11,
        host,
        said.fields,
        said.forwarded,
        said.via,
        said.body_bytes,
        said.has_length,
        said.keep_alive,
        said.upgrade,
        said.expects_continue,
        said.accepts_trailers,
        said.lines,
    )


def _reduce_target(method: bytes, target: bytes, host: bytes | None) -> tuple[bytes, bytes | None]:
    """Return origin-form target and host for a target that is not plain origin-form (RFC 9112, section 3.2)."""
    if method == b"CONNECT":
        raise _refused_connect()
    if target == b"*":
        if method != b"OPTIONS":
            raise BadRequest("only OPTIONS may be asked of *")
        return target, host
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise BadRequest("the request's target is neither a path nor an http URL")
    tls, authority, path = absolute.group(1, 2, 3)
    if not authority or authority.startswith(b":") or not HOST.fullmatch(authority):
        raise BadRequest("the request's target names no valid host")
    port = b":443" if tls else b":80"
    if host is not None and _without_port(host, port) != _without_port(authority, port):
        raise BadRequest("the request's Host disagrees with its target")
    if not path:
        return (b"*" if method == b"OPTIONS" else b"/"), authority
    return (path if path[0] == 47 else b"/" + path), authority


def _without_port(host: bytes, default_port: bytes) -> bytes:
    return host.lower().removesuffix(default_port).removesuffix(b":")


def _refused_connect() -> BadRequest:
    return BadRequest("CONNECT is not served here: this is not a forward proxy", 501)


def _too_large(data: bytes, limit_bytes: int) -> BadRequest:
    if b"\r\n" not in data[:limit_bytes]:
        return BadRequest(f"the request's target is longer than {limit_bytes} bytes", 414)
    return BadRequest(f"the request's header fields are larger than {limit_bytes} bytes", 431)


def _diagnose(data: bytes) -> BadRequest:
    """Say why ``data``, a head that the grammar refuses, is refused."""
    line, _, rest = data.partition(b"\r\n")
    request_line = _ANY_VERSION.fullmatch(line)
    if request_line is not None and request_line.group(1, 2) not in ((b"1", b"0"), (b"1", b"1")):
        return BadRequest("only HTTP/1.0 and HTTP/1.1 are spoken here", 505)
    if FORBIDDEN.search(data) is not None:
        return BadRequest("the request's head holds a control character or a line that does not end in CR LF")
    if request_line is None:
        return BadRequest("the request's first line is not a method, a target and a version, parted by single spaces")
    matched = FIELD_BLOCK.match(rest)
    bad_line = rest[matched.end() if matched is not None else 0 :].partition(b"\r\n")[0]
    if bad_line[:1] in (b" ", b"\t"):
        return BadRequest("the request has a header line that continues the one before it")
    name, colon, _value = bad_line.partition(b":")
    if colon and TOKEN.fullmatch(name.rstrip(b" \t")):
        return BadRequest("the request has a blank between a header's name and its colon")
    return BadRequest("the request has a header line that does not start with a field name and a colon")
