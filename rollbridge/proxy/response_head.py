"""Response heads of the application, read as strictly as requests: what is doubtful becomes a 502, not a guess."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from rollbridge.proxy.fields import (
    CONTENT_LENGTH,
    FIELD_LINES,
    FORBIDDEN,
    MAX_FIELDS,
    Field,
    join_values,
    list_items,
    split_fields,
)
from rollbridge.proxy.head import without_named


class BadResponse(Exception):
    """The application's bytes are no response that may be passed on; the text says why."""


@dataclass(slots=True)
class ResponseHead:
    """One response head, understood; interim (1xx) ones too. Not frozen for the same reason as RequestHead."""

    status: int
    status_line: bytes  # "200 OK"
    is_http11: bool
    fields: list[Field]  # end-to-end fields in wire order; those treated by name are taken out
    content_length: int | None
    is_chunked: bool
    keep_alive: bool
    upgrade: bytes | None  # what 101 switches to, or what 426 asks for


_RESPONSE: Final = re.compile(
    rb"HTTP/1\.([01]) (([1-9][0-9][0-9])(?: [\t -~\x80-\xff]*+)?)\r\n(" + FIELD_LINES + rb")\r\n"
)
_DROPPED: Final = 0
_LENGTH: Final = 1
_TRANSFER_ENCODING: Final = 2
_CONNECTION: Final = 3
_UPGRADE: Final = 4
_SPECIAL: Final = {
    b"content-length": _LENGTH,
    b"transfer-encoding": _TRANSFER_ENCODING,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"keep-alive": _DROPPED,
    b"close": _DROPPED,  # reserved (RFC 9112, section 9.6): "Connection: close" would name it
    b"proxy-connection": _DROPPED,
    b"proxy-authenticate": _DROPPED,
    b"te": _DROPPED,
}


def find_response_head(data: bytes, scanned: int, limit_bytes: int) -> tuple[ResponseHead, int] | None:
    """Return the head at the start of ``data`` and where it ends; None while it is incomplete.

    ``scanned`` is how much of ``data`` an earlier call has seen. Raises BadResponse.
    """
    is_still_open = scanned > 0 and data.find(b"\r\n\r\n", max(0, scanned - 3)) < 0
    match = None if is_still_open else _RESPONSE.match(data)
    if match is not None:
        end = match.end()
        if end > limit_bytes:
            raise BadResponse(f"its head is larger than {limit_bytes} bytes")
        return _understand(data, match), end
    has_end = data.find(b"\r\n\r\n", max(0, scanned - 3), limit_bytes) >= 0
    if has_end or FORBIDDEN.search(data, max(0, scanned - 1), limit_bytes) is not None:
        raise BadResponse(f"its head is not one of HTTP/1.0 or HTTP/1.1: it starts with {data[:40]!r}")
    if len(data) >= limit_bytes:
        raise BadResponse(f"its head is larger than {limit_bytes} bytes")
    return None


def _understand(data: bytes, match: re.Match[bytes]) -> ResponseHead:
    minor, status_line, status = match.group(1, 2, 3)
    start, end = match.span(4)
    if end - start > MAX_FIELDS and data.count(b"\n", start, end) > MAX_FIELDS:
        raise BadResponse(f"it has more than {MAX_FIELDS} header fields")
    fields = split_fields(data, start, end)
    is_http11 = minor == b"1"
    special = _SPECIAL
    kept: list[Field] = []
    length: int | None = None
    is_chunked = False
    options: list[bytes] | None = None
    upgrade: bytes | None = None
    for field in fields:
        kind = special.get(field[0].lower())
        if kind is None:
            kept.append(field)
        elif kind == _LENGTH:
            if length is not None or not CONTENT_LENGTH.fullmatch(field[1]):
                raise BadResponse("its Content-Length is repeated or not a number")
            length = int(field[1])
        elif kind == _CONNECTION:
            options = (options or []) + list_items(field[1])
        elif kind == _TRANSFER_ENCODING:
            if is_chunked or field[1].lower() != b"chunked":
                raise BadResponse("its Transfer-Encoding is not exactly chunked")
            is_chunked = True
        elif kind == _UPGRADE:
            upgrade = join_values(upgrade, field[1])
    if is_chunked and (length is not None or not is_http11):
        raise BadResponse("it has Transfer-Encoding along with Content-Length or HTTP/1.0")
    keep_alive = is_http11
    if options is not None:
        keep_alive = b"close" not in options and (is_http11 or b"keep-alive" in options)
        kept = without_named(kept, options)
    if len(status_line) == 3:
        status_line += b" "
    return ResponseHead(int(status), status_line, is_http11, kept, length, is_chunked, keep_alive, upgrade)
