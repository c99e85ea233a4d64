"""Response heads of the application, read as strictly as requests: what is doubtful becomes a 502, not a guess."""

from __future__ import annotations

import dataclasses
import re
from typing import Final, TypeAlias

from rollbridge.proxy.fields import (
    CONTENT_LENGTH,
    FIELD_LINES,
    FORBIDDEN,
    MAX_FIELDS,
    Field,
    join_values,
    list_items,
    split_fields,
    without_named,
)
from rollbridge.proxy.remembered import Remembered


class BadResponse(Exception):
    """The application's bytes are no response that may be passed on; the text says why."""


@dataclasses.dataclass(slots=True)
class ResponseHead:
    """One response head, understood; interim (1xx) ones too. Not frozen for the same reason as RequestHead.

    Shared by all responses with the same head: never changed, but for ``sent``.
    """

    status: int
    status_line: bytes  # "200 OK"
    is_http11: bool
    fields: list[Field]  # end-to-end fields in wire order; those treated by name are taken out
    content_length: int | None
    is_chunked: bool
    keep_alive: bool
    upgrade: bytes | None  # what 101 switches to, or what 426 asks for
    # What forward.response_head_bytes makes of it, by all else that this depends on.
    sent: dict[tuple[bool, bool, bool], bytes] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @property
    def size_bytes(self) -> int:
        """About what it takes of memory, when it is sent in one or two ways."""
        return 1024 + sum(200 + 3 * (len(name) + len(value)) for name, value in self.fields)


KnownResponses: TypeAlias = Remembered[ResponseHead]  # by the bytes of the whole head


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


def find_response_head(
    data: bytes, scanned: int, limit_bytes: int, known: KnownResponses | None = None
) -> tuple[ResponseHead, int] | None:
    """Return the head at the start of ``data`` and where it ends; None while it is incomplete.

    ``scanned`` is how much of ``data`` an earlier call has seen. ``known`` changes what a head costs, and nothing else.
    Raises BadResponse.
    """
    end = data.find(b"\r\n\r\n", scanned - 3 if scanned > 3 else 0, limit_bytes) + 4
    if end >= 4:
        head_bytes = data[:end]
        head = known.recall(head_bytes) if known is not None else None
        if head is None:
            head = _parse(head_bytes)
            if known is not None:
                known.learn(head_bytes, head, end + head.size_bytes)
        return head, end
    if FORBIDDEN.search(data, max(0, scanned - 1), limit_bytes) is not None:
        raise _not_http(data)
    if len(data) >= limit_bytes:
        raise BadResponse(f"its head is larger than {limit_bytes} bytes")
    return None


def _not_http(data: bytes) -> BadResponse:
    return BadResponse(f"its head is not one of HTTP/1.0 or HTTP/1.1: it starts with {data[:40]!r}")


def _parse(data: bytes) -> ResponseHead:
    """Parse one head, the empty line at its end included."""
    match = _RESPONSE.fullmatch(data)
    if match is None:
        raise _not_http(data)
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
