"""What goes out: the head for the application, the head for the client. Re-serialised from what was understood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rollbridge.proxy.fields import Field, join_fields, join_values
from rollbridge.proxy.framing import CHUNKED_BODY, Framing
from rollbridge.proxy.head import RequestHead
from rollbridge.proxy.response_head import ResponseHead

# RFC 9110, section 7.6.3: a gateway MUST send Via in the requests it passes on. In responses it MAY, and we do not:
# it tells the world nothing useful and there are programs that turn compression off when they see it.
VIA_NAME: Final = b"rollbridge"


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """What is known of a client connection when it is accepted; valid for all its requests."""

    address: bytes  # without port; an IPv4 address mapped into IPv6 is written as IPv4
    local_host: bytes  # "address:port" the client connected to: Host for an HTTP/1.0 request without one
    port: bytes  # X-Forwarded-Port, when nobody trusted said otherwise
    is_trusted: bool  # X-Forwarded-* from here is believed and extended
    plain_tail: bytes = b""  # prebuilt: all fields that do not depend on the request

    @classmethod
    def of(cls, address: bytes, local_host: bytes, port: bytes, is_trusted: bool) -> ClientFacts:
        tail = (
            b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: %b\r\nVia: 1.1 %b\r\n"
            b"X-Forwarded-Host: " % (address, port, VIA_NAME)
        )
        return cls(address, local_host, port, is_trusted, tail)


def request_head_bytes(head: RequestHead, client: ClientFacts) -> bytes:
    """Return the head to send to the application; always HTTP/1.1, always with Host."""
    host = head.host if head.host is not None else client.local_host
    first = (head.method, b" ", head.target, b" HTTP/1.1\r\nHost: ", host, b"\r\n", head.lines)
    if head.via is None and head.is_http11 and not (head.forwarded and client.is_trusted):
        return b"".join((*first, client.plain_tail, host, b"\r\n\r\n"))
    return b"".join((*first, join_fields(_forwarded_fields(head, client, host)), b"\r\n"))


def _forwarded_fields(head: RequestHead, client: ClientFacts, host: bytes) -> list[Field]:
    """X-Forwarded-* and Via of one request; what a stranger claims is left out, what a trusted proxy says is kept."""
    told: dict[bytes, bytes] = {}
    if client.is_trusted:
        for name, value in head.forwarded:
            told[name] = join_values(told.get(name), value)
    chain = told.pop(b"x-forwarded-for", b"")
    via = b"1.%d %b" % (head.is_http11, VIA_NAME)
    return [
        (b"X-Forwarded-For", join_values(chain, client.address)),
        (b"X-Forwarded-Proto", told.pop(b"x-forwarded-proto", b"http")),
        (b"X-Forwarded-Port", told.pop(b"x-forwarded-port", client.port)),
        (b"X-Forwarded-Host", told.pop(b"x-forwarded-host", host)),
        *((name.title(), value) for name, value in told.items()),
        (b"Via", join_values(head.via, via)),
    ]


def response_head_bytes(head: ResponseHead, framing: Framing, is_http11: bool, will_close: bool) -> bytes:
    """Return the head of a final response for a client; ``framing`` is the one towards the client."""
    how = (framing is CHUNKED_BODY, is_http11, will_close)
    sent = head.sent.get(how)
    if sent is None:
        sent = head.sent[how] = _response_head_bytes(head, *how)
    return sent


def _response_head_bytes(head: ResponseHead, is_chunked: bool, is_http11: bool, will_close: bool) -> bytes:
    lines = [b"HTTP/1.1 ", head.status_line, b"\r\n", join_fields(head.fields)]
    if is_chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif head.content_length is not None and head.status != 204:
        lines.append(b"Content-Length: %d\r\n" % head.content_length)
    if head.status == 426 and head.upgrade is not None:
        # RFC 9110, section 15.5.22: a 426 has to say what it asks for, and that field is for one hop only.
        options = b"Upgrade, close" if will_close else b"Upgrade"
        lines.append(b"Upgrade: %b\r\nConnection: %b\r\n" % (head.upgrade, options))
    elif will_close:
        lines.append(b"Connection: close\r\n")
    elif not is_http11:
        lines.append(b"Connection: keep-alive\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def interim_head_bytes(head: ResponseHead) -> bytes:
    """Return the head of a 1xx response; for 101 with the protocol that it switches to."""
    switch = b""
    if head.status == 101:
        switch = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % (head.upgrade or b"")
    return b"HTTP/1.1 %b\r\n%b%b\r\n" % (head.status_line, join_fields(head.fields), switch)
