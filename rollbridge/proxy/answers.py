"""The answers that the proxy gives by itself: short, well-formed, one sentence for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REASONS: Final[Mapping[int, bytes]] = {
    400: b"Bad Request",
    408: b"Request Timeout",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}


def answer_body(status: int, sentence: str) -> bytes:
    return b"%d %b: %b.\n" % (status, REASONS[status], sentence.encode("ascii", "replace"))


def answer_bytes(
    status: int,
    sentence: str,
    date: bytes,
    *,
    is_head: bool = False,
    will_close: bool = True,
    is_http11: bool = True,
    retry_after_seconds: int | None = None,
) -> bytes:
    """Return a whole response; ``date`` is an HTTP date. A HEAD request gets the head alone."""
    body = answer_body(status, sentence)
    lines = [
        b"HTTP/1.1 %d %b\r\nDate: %b\r\n" % (status, REASONS[status], date),
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n" % len(body),
        b"Cache-Control: no-store\r\n",
    ]
    if retry_after_seconds is not None:
        lines.append(b"Retry-After: %d\r\n" % retry_after_seconds)
    if will_close:
        lines.append(b"Connection: close\r\n")
    elif not is_http11:
        lines.append(b"Connection: keep-alive\r\n")
    lines.append(b"\r\n")
    if not is_head:
        lines.append(body)
    return b"".join(lines)
