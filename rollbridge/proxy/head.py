"""Request heads: bytes to a RequestHead in one pass, or a BadRequest with the answer to send."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from rollbridge.proxy.fields import (
    CONTENT_LENGTH,
    FIELD_BLOCK,
    FIELD_LINES,
    FORBIDDEN,
    MAX_FIELDS,
    TOKEN,
    TOKEN_CLASS,
    Field,
    join_values,
    list_items,
    split_fields,
)

CHUNKED: Final = -1  # in place of a body length: the body is chunked


class BadRequest(Exception):
    """The client's bytes are no request that may be served; ``status`` is the answer, then the connection ends."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class RequestHead:
    """One request head, understood. Not frozen: a frozen dataclass costs a microsecond more per request."""

    method: bytes
    target: bytes  # origin-form or "*"; absolute-form is reduced to origin-form
    is_http11: bool
    host: bytes | None  # of the absolute target or of Host; None only for HTTP/1.0
    fields: list[Field]  # end-to-end fields in wire order; those treated by name are taken out
    forwarded: list[Field]  # X-Forwarded-*, Forwarded and X-Real-IP, as they came, names lowercased
    via: bytes | None
    body_bytes: int  # 0: no body; CHUNKED: -1
    has_length: bool  # a Content-Length was given, even 0
    keep_alive: bool
    upgrade: bytes | None  # asks for another protocol after 101; HTTP/1.1 only
    expects_continue: bool
    accepts_trailers: bool


_REQUEST: Final = re.compile(
    rb"(" + TOKEN_CLASS + rb"++) ([!-~]++) HTTP/1\.([01])\r\n(" + FIELD_LINES + rb")\r\n",
)
_REQUEST_LINE: Final = re.compile(rb"(" + TOKEN_CLASS + rb"++) ([!-~]++) HTTP/([0-9])\.([0-9])")
_ABSOLUTE: Final = re.compile(rb"(?i:http(s?))://([^/?#]*+)([^#]*+)")
_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]++\]|[A-Za-z0-9\-._~%!$&'()*+,;=]*+)(?::[0-9]*+)?",
)

# Fields that are treated by name; everything else is passed on as it is. Hop-by-hop ones (RFC 9110, section 7.6.1) are
# dropped. ``Proxy`` is no field of HTTP, but becomes HTTP_PROXY in a CGI-like environment ("httpoxy").
_DROPPED: Final = 0
_HOST_FIELD: Final = 1
_LENGTH: Final = 2
_TRANSFER_ENCODING: Final = 3
_CONNECTION: Final = 4
_UPGRADE: Final = 5
_EXPECT: Final = 6
_TE: Final = 7
_FORWARDED: Final = 8
_VIA: Final = 9
_SPECIAL: Final = {
    b"host": _HOST_FIELD,
    b"content-length": _LENGTH,
    b"transfer-encoding": _TRANSFER_ENCODING,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"expect": _EXPECT,
    b"te": _TE,
    b"via": _VIA,
    b"forwarded": _FORWARDED,
    b"x-real-ip": _FORWARDED,
    b"keep-alive": _DROPPED,
    b"close": _DROPPED,  # reserved (RFC 9112, section 9.6): "Connection: close" would name it
    b"proxy-connection": _DROPPED,
    b"proxy-authenticate": _DROPPED,
    b"proxy-authorization": _DROPPED,
    b"proxy": _DROPPED,
}


class HeadReader:
    """Finds the end of a request head in bytes that arrive piecemeal; refuses early what can never become one."""

    __slots__ = ("_has_skipped", "_scanned", "buffer", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.buffer = b""
        self._scanned = 0
        self._has_skipped = False

    def feed(self, data: bytes) -> tuple[RequestHead, bytes] | None:
        """Return the head and the bytes after it, or None while it is incomplete; raise BadRequest."""
        if not self.buffer:
            # The usual case: the whole head in one piece.
            match = _REQUEST.match(data)
            if match is not None:
                end = match.end()
                if end > self.limit_bytes:
                    raise _too_large(data, self.limit_bytes)
                self._has_skipped = False
                return _understand(data, match), data[end:]
        return self._feed_slowly(self.buffer + data if self.buffer else data)

    def _feed_slowly(self, data: bytes) -> tuple[RequestHead, bytes] | None:
        if not self._has_skipped and data.startswith(b"\r\n"):
            # One empty line before a request is to be ignored (RFC 9112, section 2.2).
            data = data[2:]
            self._has_skipped = True
            self._scanned = 0
        end = data.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if 0 <= end <= self.limit_bytes - 4:
            match = _REQUEST.match(data)
            if match is None:
                raise _diagnose(data[: end + 4])
            self.buffer = b""
            self._scanned = 0
            self._has_skipped = False
            return _understand(data, match), data[match.end() :]
        if FORBIDDEN.search(data, max(0, self._scanned - 1), self.limit_bytes) is not None:
            raise _diagnose(data)
        if len(data) >= self.limit_bytes:
            raise _too_large(data, self.limit_bytes)
        self.buffer = data
        self._scanned = len(data)
        return None


def parse_request_head(data: bytes) -> RequestHead:
    """Parse one complete request head, empty line included; raise BadRequest."""
    match = _REQUEST.fullmatch(data)
    if match is None:
        raise _diagnose(data)
    return _understand(data, match)


def _understand(data: bytes, match: re.Match[bytes]) -> RequestHead:
    method, target, minor = match.group(1, 2, 3)
    start, end = match.span(4)
    if end - start > MAX_FIELDS and data.count(b"\n", start, end) > MAX_FIELDS:
        raise BadRequest(f"the request has more than {MAX_FIELDS} header fields", 431)
    fields = split_fields(data, start, end)
    is_http11 = minor == b"1"
    is_suspicious = data.find(b"_", start, end) >= 0
    special = _SPECIAL
    kept: list[Field] = []
    forwarded: list[Field] = []
    host: bytes | None = None
    length: bytes | None = None
    encoding: bytes | None = None
    options: list[bytes] | None = None
    upgrade: bytes | None = None
    via: bytes | None = None
    expects_continue = accepts_trailers = False
    for field in fields:
        name = field[0].lower()
        kind = special.get(name)
        if kind is None:
            if name[0] == 120 and name.startswith(b"x-forwarded-"):
                forwarded.append((name, field[1]))
            elif is_suspicious and b"_" in name and _is_disguised(name):
                continue
            else:
                kept.append(field)
        elif kind == _HOST_FIELD:
            if host is not None:
                raise BadRequest("the request has more than one Host field")
            host = field[1]
        elif kind == _CONNECTION:
            options = (options or []) + list_items(field[1])
        elif kind == _LENGTH:
            if length is not None or not CONTENT_LENGTH.fullmatch(field[1]):
                raise BadRequest("the request's Content-Length is repeated or not a number")
            length = field[1]
        elif kind == _TRANSFER_ENCODING:
            if encoding is not None or field[1].lower() != b"chunked":
                raise BadRequest("the request's Transfer-Encoding is not exactly chunked")
            encoding = field[1]
        elif kind == _UPGRADE:
            upgrade = join_values(upgrade, field[1])
        elif kind == _EXPECT:
            if field[1].lower() != b"100-continue":
                raise BadRequest("the request's Expect is not 100-continue", 417)
            expects_continue = is_http11
        elif kind == _TE:
            accepts_trailers = accepts_trailers or b"trailers" in list_items(field[1])
        elif kind == _FORWARDED:
            forwarded.append((name, field[1]))
        elif kind == _VIA:
            via = join_values(via, field[1])

    if encoding is not None and (length is not None or not is_http11):
        # RFC 9112, section 6.1: either is how a request is smuggled past somebody who reads it differently.
        raise BadRequest("the request has Transfer-Encoding along with Content-Length or HTTP/1.0")
    if host is not None and not _HOST.fullmatch(host):
        raise BadRequest("the request's Host is not a host name with an optional port")
    if host is None and is_http11:
        # Also when the target names the host (RFC 9112, section 3.2).
        raise BadRequest("the request has no Host field")
    if target[0] != 47 or b"#" in target:  # not "/..."
        target, host = _reduce_target(method, target, host)
    elif method == b"CONNECT":
        raise _refused_connect()
    keep_alive = is_http11
    if options is None:
        upgrade = None
    else:
        keep_alive = b"close" not in options and (is_http11 or b"keep-alive" in options)
        if b"upgrade" not in options or not is_http11:
            upgrade = None
        kept = without_named(kept, options)
    return RequestHead(
        method,
        target,
        is_http11,
        host,
        kept,
        forwarded,
        via,
        CHUNKED if encoding is not None else int(length or 0),
        length is not None,
        keep_alive,
        upgrade or None,
        expects_continue,
        accepts_trailers,
    )


_USUAL_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade", b"te"})


def without_named(fields: list[Field], options: list[bytes]) -> list[Field]:
    """Take out the fields that Connection names as meant for this hop only (RFC 9110, section 7.6.1)."""
    named = [option for option in options if option not in _USUAL_OPTIONS]
    return [field for field in fields if field[0].lower() not in named] if named else fields


def _is_disguised(name: bytes) -> bool:
    """Whether ``name`` (with underscores) turns into a field of ours where applications see ``-`` and ``_`` alike."""
    plain = name.replace(b"_", b"-")
    return plain in _SPECIAL or plain.startswith(b"x-forwarded-")


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
    if not authority or authority.startswith(b":") or not _HOST.fullmatch(authority):
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
    request_line = _REQUEST_LINE.fullmatch(line)
    if request_line is not None and request_line.group(3, 4) not in ((b"1", b"0"), (b"1", b"1")):
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
