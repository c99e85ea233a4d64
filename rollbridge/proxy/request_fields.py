"""The fields of a request: bytes to what they mean for a proxy, and to the lines that the application gets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from rollbridge.proxy.fields import (
    CONTENT_LENGTH,
    MAX_FIELDS,
    Field,
    join_fields,
    join_values,
    list_items,
    split_fields,
    without_named,
)

CHUNKED: Final = -1  # in place of a body length: the body is chunked


class BadRequest(Exception):
    """The client's bytes are no request that may be served; ``status`` is the answer, then the connection ends."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class RequestFields:
    """All that the fields of one request say, and nothing that depends on anything else than their bytes and version.

    Shared by all requests with the same fields: never changed.
    """

    host: bytes | None  # None only for HTTP/1.0
    fields: list[Field]  # end-to-end fields in wire order; those treated by name are taken out
    forwarded: list[Field]  # X-Forwarded-*, Forwarded and X-Real-IP, as they came, names lowercased
    via: bytes | None
    body_bytes: int  # 0: no body; CHUNKED: -1
    has_length: bool  # a Content-Length was given, even 0
    keep_alive: bool
    upgrade: bytes | None  # asks for another protocol after 101; HTTP/1.1 only
    expects_continue: bool
    accepts_trailers: bool
    lines: bytes  # all that is passed on of these to the application, but for Host, ``forwarded`` and ``via``

    @property
    def size_bytes(self) -> int:
        """About what it takes of memory."""
        return 512 + 2 * len(self.lines) + 160 * (len(self.fields) + len(self.forwarded))


HOST: Final = re.compile(
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
    b"http2-settings": _DROPPED,
    b"proxy-connection": _DROPPED,
    b"proxy-authenticate": _DROPPED,
    b"proxy-authorization": _DROPPED,
    b"proxy": _DROPPED,
}


_HTTP: Final = frozenset({b"h2", b"h2c", b"http"})  # as Upgrade names it, without a version


def understand_fields(block: bytes, is_http11: bool) -> RequestFields:
    """Understand field lines, the empty line after them included, which the grammar must have matched.

    Raises BadRequest.
    """
    end = len(block) - 2
    if end > MAX_FIELDS and block.count(b"\n", 0, end) > MAX_FIELDS:
        raise BadRequest(f"the request has more than {MAX_FIELDS} header fields", 431)
    fields = split_fields(block, 0, end)
    is_suspicious = block.find(b"_") >= 0
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
    if host is not None and not HOST.fullmatch(host):
        raise BadRequest("the request's Host is not a host name with an optional port")
    if host is None and is_http11:
        # Also when the target names the host (RFC 9112, section 3.2).
        raise BadRequest("the request has no Host field")
    keep_alive = is_http11
    if options is None:
        upgrade = None
    else:
        keep_alive = b"close" not in options and (is_http11 or b"keep-alive" in options)
        upgrade = None if upgrade is None or b"upgrade" not in options or not is_http11 else _without_http2(upgrade)
        kept = without_named(kept, options)
    body_bytes = CHUNKED if encoding is not None else int(length or 0)
    upgrade = upgrade or None
    return RequestFields(
        host,
        kept,
        forwarded,
        via,
        body_bytes,
        length is not None,
        keep_alive,
        upgrade,
        expects_continue,
        accepts_trailers,
        _lines(kept, body_bytes, length is not None, upgrade, expects_continue, accepts_trailers),
    )


def _lines(
    fields: list[Field],
    body_bytes: int,
    has_length: bool,
    upgrade: bytes | None,
    expects_continue: bool,
    accepts_trailers: bool,
) -> bytes:
    """What was understood, as lines for the application; without Host, and what depends on the connection."""
    lines = join_fields(fields)
    if body_bytes == CHUNKED:
        lines += b"Transfer-Encoding: chunked\r\n"
    elif has_length:
        lines += b"Content-Length: %d\r\n" % body_bytes
    if expects_continue:
        lines += b"Expect: 100-continue\r\n"
    if upgrade is not None:
        te = b"Connection: Upgrade, TE\r\nTE: trailers\r\n" if accepts_trailers else b"Connection: Upgrade\r\n"
        lines += b"Upgrade: %b\r\n%b" % (upgrade, te)
    elif accepts_trailers:
        lines += b"Connection: TE\r\nTE: trailers\r\n"
    return lines


def _without_http2(upgrade: bytes) -> bytes:
    """The protocols asked for that are no HTTP: requests in such a tunnel would pass all that is checked here.

    RFC 9113, section 3.1, has given this way into HTTP/2 up; no browser has ever gone it.
    """
    if b"h2" not in upgrade.lower() and b"http" not in upgrade.lower():
        return upgrade
    protocols = [protocol.strip(b" \t") for protocol in upgrade.split(b",")]
    return b", ".join(one for one in protocols if one.lower().partition(b"/")[0] not in _HTTP)


def _is_disguised(name: bytes) -> bool:
    """Whether ``name`` (with underscores) turns into a field of ours where applications see ``-`` and ``_`` alike."""
    plain = name.replace(b"_", b"-")
    return plain in _SPECIAL or plain.startswith(b"x-forwarded-")
