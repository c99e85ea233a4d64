"""What is fuzzed: each target takes any bytes, and fails when the proxy's readers do anything but read or refuse them.

A target feeds the bytes to a reader whole and in pieces, and compares what comes out with a second reading, with h11,
and with what becomes of it after being forwarded. It returns how the bytes were understood, for who wants to know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

import h11

from rollbridge.proxy.chunked import BadFraming, ChunkedReader, encode_chunk, encode_end
from rollbridge.proxy.fields import Field
from rollbridge.proxy.forward import ClientFacts, interim_head_bytes, request_head_bytes, response_head_bytes
from rollbridge.proxy.framing import Framing, client_framing, request_relay, response_framing, response_relay
from rollbridge.proxy.head import HeadReader, KnownFields, RequestHead, parse_request_head
from rollbridge.proxy.request_fields import CHUNKED, BadRequest
from rollbridge.proxy.response_head import BadResponse, KnownResponses, ResponseHead, find_response_head
from tests.fuzz import second_reading

LIMIT_BYTES: Final = 65536
STRANGER: Final = ClientFacts.of(b"203.0.113.9", b"127.0.0.1:8182", b"8182", False)
FRIEND: Final = ClientFacts.of(b"127.0.0.1", b"127.0.0.1:8182", b"8182", True)

_STATUSES: Final = frozenset({400, 414, 417, 431, 501, 505})
# Fields that reach nobody as they are: for one hop (RFC 9110, section 7.6.1), read and written anew, or dangerous.
_HOP_BY_HOP: Final = frozenset(
    b"close connection keep-alive proxy-connection te transfer-encoding upgrade content-length host expect via proxy"
    b" proxy-authenticate proxy-authorization forwarded x-real-ip".split()
)
_RESPONSE_HOP_BY_HOP: Final = frozenset(
    b"close connection keep-alive proxy-connection te transfer-encoding upgrade content-length"
    b" proxy-authenticate".split()
)


def pieces_of(data: bytes) -> list[bytes]:
    """``data`` in pieces that depend on nothing but ``data``: most of them small."""
    state = len(data) * 2654435761 + sum(data[:64])
    pieces = []
    at = 0
    while at < len(data):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        size = 1 + (state >> 16) % (3 if state & 0x1000 else 1 + len(data) // 2)
        pieces.append(data[at : at + size])
        at += size
    return pieces


def expected_fields(fields: list[Field], members: list[bytes]) -> list[Field]:
    """What of a request's fields is to be passed on as it is, for one whose Connection has these members."""
    return [
        (name, value)
        for name, value in fields
        if name not in _HOP_BY_HOP
        and name not in members
        and not name.startswith(b"x-forwarded-")
        and not ("_" in (plain := name.decode()) and _is_ours(plain.replace("_", "-").encode()))
    ]


def _is_ours(name: bytes) -> bool:
    return name in _HOP_BY_HOP or name.startswith(b"x-forwarded-")


def lowered(fields: list[Field]) -> list[Field]:
    return [(name.lower(), value) for name, value in fields]


# Request heads.


def feed_heads(pieces: list[bytes], known: KnownFields | None = None) -> tuple[RequestHead, bytes] | int | None:
    """Head and all bytes after it, the refusal's status, or None for more to come."""
    reader = HeadReader(LIMIT_BYTES, known)
    for number, piece in enumerate(pieces):
        try:
            found = reader.feed(piece)
        except BadRequest as error:
            assert error.status in _STATUSES
            return error.status
        if found is not None:
            return found[0], found[1] + b"".join(pieces[number + 1 :])
    return None


def request_heads(data: bytes) -> str:
    """One request head and what follows it."""
    outcome = feed_heads([data])
    assert feed_heads(pieces_of(data)) == outcome
    known = KnownFields(lambda: None)
    for pieces in ([data], pieces_of(data), [data], pieces_of(data)):  # met, learned, and remembered twice
        assert feed_heads(pieces, known) == outcome
    if outcome is None:
        return "incomplete"
    if isinstance(outcome, int):
        assert is_refusable(data)
        return f"{outcome}"
    parsed, rest = outcome
    assert data.endswith(rest)
    head_bytes = data[: len(data) - len(rest)].removeprefix(b"\r\n")
    assert parse_request_head(head_bytes) == parsed
    check_request_head(parsed, head_bytes)
    check_against_h11(parsed, head_bytes)
    for client in (STRANGER, FRIEND):
        check_forwarded_request(parsed, client)
    assert feed_heads([data], known) == outcome  # whatever was done with the one that was remembered
    return "head"


def is_refusable(data: bytes) -> bool:
    """Whether the RFC asks or allows to refuse the request head that ``data`` starts with."""
    try:
        read, end = second_reading.read_request_head(data.removeprefix(b"\r\n"))
    except (second_reading.Unreadable, second_reading.Incomplete):
        return True
    lengths = read.head.values(b"content-length")
    return (
        len(lengths) > 1  # though they agree (section 6.3, item 5)
        or any(b"," in value or len(value) > 18 for value in lengths)
        or (read.is_chunked and [value.lower() for value in read.head.values(b"transfer-encoding")] != [b"chunked"])
        or any(value.lower() != b"100-continue" for value in read.head.values(b"expect"))
        or read.head.values(b"host") not in ([], [read.host])  # it disagrees with the target
        or len(read.head.fields) > 500
        or end > LIMIT_BYTES
    )


def check_request_head(parsed: RequestHead, head_bytes: bytes) -> None:
    """``parsed`` is what a second reading of ``head_bytes`` gives."""
    read, end = second_reading.read_request_head(head_bytes)
    assert end == len(head_bytes)
    assert (parsed.method, parsed.target, parsed.host) == (read.method, read.path, read.host)
    assert parsed.is_http11 is (read.head.start[2] == b"HTTP/1.1")
    assert parsed.body_bytes == (CHUNKED if read.is_chunked else read.length or 0)
    assert parsed.has_length is (read.length is not None)
    options = read.head.members(b"connection")
    assert lowered(parsed.fields) == expected_fields(read.head.fields, options)
    if b"close" in options:
        assert not parsed.keep_alive
    else:
        assert parsed.keep_alive is (parsed.is_http11 or b"keep-alive" in options)
    if parsed.upgrade is not None:
        assert parsed.is_http11
        assert b"upgrade" in options
        assert read.head.values(b"upgrade")
    assert parsed.expects_continue is (parsed.is_http11 and bool(read.head.values(b"expect")))


def check_against_h11(parsed: RequestHead, head_bytes: bytes) -> None:
    """h11 takes the head, and for the same one."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * LIMIT_BYTES)
    connection.receive_data(head_bytes)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert event.method == parsed.method
    if event.target.startswith(b"/"):
        assert event.target == parsed.target
    assert event.http_version == (b"1.1" if parsed.is_http11 else b"1.0")
    theirs = [(name.lower(), value) for name, value in event.headers]
    options = b",".join(value for name, value in theirs if name == b"connection").lower().split(b",")
    assert lowered(parsed.fields) == expected_fields(theirs, [option.strip(b" \t") for option in options])
    framing = [value for name, value in theirs if name in (b"content-length", b"transfer-encoding")]
    if parsed.body_bytes == CHUNKED:
        assert framing == [b"chunked"]
    elif parsed.has_length:
        assert [int(value) for value in framing] == [parsed.body_bytes]
    else:
        assert framing == []


def check_forwarded_request(parsed: RequestHead, client: ClientFacts) -> None:
    """What is sent to the application is a head that means the same, and forwarding it again changes no meaning."""
    sent = request_head_bytes(parsed, client)
    again = parse_request_head(sent)
    check_request_head(again, sent)
    assert (again.method, again.target, again.body_bytes) == (parsed.method, parsed.target, parsed.body_bytes)
    assert again.host == (client.local_host if parsed.host is None else parsed.host)
    assert again.fields == parsed.fields
    assert (again.has_length, again.upgrade) == (parsed.has_length, parsed.upgrade)
    assert (again.expects_continue, again.accepts_trailers) == (parsed.expects_continue, parsed.accepts_trailers)
    if not client.is_trusted:
        told = [(b"x-forwarded-for", client.address), (b"x-forwarded-proto", b"http"), (b"x-forwarded-port", b"8182")]
        assert again.forwarded == [*told, (b"x-forwarded-host", again.host)] if again.via == b"1.1 rollbridge" else True
        assert sorted(again.forwarded) == sorted([*told, (b"x-forwarded-host", again.host)])


# Bodies.


def feed_chunks(pieces: list[bytes]) -> tuple[bytes, list[Field], bytes] | str:
    """Payload, trailers and all bytes after the body; or "bad", or "incomplete"."""
    reader = ChunkedReader()
    payload = b""
    given = 0
    for number, piece in enumerate(pieces):
        given += len(piece)
        try:
            payload += reader.feed(piece)
        except BadFraming:
            return "bad"
        assert len(payload) <= given
        if reader.is_done:
            return payload, reader.trailers, reader.rest + b"".join(pieces[number + 1 :])
    return "incomplete"


def chunked_bodies(data: bytes) -> str:
    """One chunked body and what follows it."""
    outcome = feed_chunks([data])
    pieces = pieces_of(data)
    assert feed_chunks(pieces) == outcome
    if isinstance(outcome, str):
        assert outcome == "incomplete" or is_refusable_body(data)
        return outcome
    payload, trailers, rest = outcome
    assert data.endswith(rest)
    cursor = second_reading.Cursor(data)
    body = cursor.chunked_body()
    assert cursor.at == len(data) - len(rest)
    assert body.payload == payload
    assert [field for field in body.trailers if field in lowered(trailers)] == lowered(trailers)
    theirs = h11_payload(data)
    # h11 refuses blanks before an extension, which the grammar allows, and framing in trailers, which we drop.
    is_odd = b" " in data or b"\t" in data or len(body.trailers) > len(trailers)
    assert theirs == payload or (theirs is None and is_odd)
    passed_on = relay_chunks(pieces)
    assert feed_chunks([passed_on]) == (payload, trailers, b"")
    again = second_reading.Cursor(passed_on)
    assert again.chunked_body().payload == payload
    assert again.at == len(passed_on)
    whole = (encode_chunk(payload) if payload else b"") + encode_end(trailers)
    assert feed_chunks([whole]) == (payload, trailers, b"")
    return "body"


def is_refusable_body(data: bytes) -> bool:
    """Whether ``data`` starts with no chunked body, or with one whose sizes are too large for us."""
    try:
        second_reading.Cursor(data).chunked_body()
    except (second_reading.Unreadable, second_reading.Incomplete):
        return True
    return any(len(run) > 15 for run in _hex_runs(data)) or len(data) > 4096


def _hex_runs(data: bytes) -> list[str]:
    text = data.decode("latin-1")
    return "".join(one if one in "0123456789abcdefABCDEF" else " " for one in text).split()


def relay_chunks(pieces: list[bytes]) -> bytes:
    """What is passed on for a complete chunked request body."""
    relay = request_relay(CHUNKED)
    passed_on = b""
    for piece in pieces:
        passed_on += relay.feed(piece)
        if relay.reader.is_done:
            break
    return passed_on


def h11_payload(data: bytes) -> bytes | None:
    """The payload of the complete chunked body at the start of ``data``, as h11 reads it; None when it refuses it."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * LIMIT_BYTES)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    connection.next_event()
    payload = b""
    try:
        while isinstance(event := connection.next_event(), h11.Data):
            payload += event.data
    except h11.RemoteProtocolError:
        return None
    assert isinstance(event, h11.EndOfMessage)
    return payload


# Requests one after the other.


def feed_requests(pieces: list[bytes]) -> tuple[list[tuple[RequestHead, bytes]], str]:
    """Each complete request with what is sent for it; and "" or how the bytes after them fail.

    Goes from reader to reader as a client's connection does.
    """
    requests: list[tuple[RequestHead, bytes]] = []
    reader = HeadReader(LIMIT_BYTES)
    head: RequestHead | None = None
    passed_on = b""
    relay = request_relay(0)
    waiting = list(pieces)
    while waiting:
        data = waiting.pop(0)
        if head is None:
            try:
                found = reader.feed(data)
            except BadRequest as error:
                return requests, f"{error.status}"
            if found is None:
                continue
            head, data = found
            passed_on = request_head_bytes(head, STRANGER)
            relay = request_relay(head.body_bytes)
        if head.body_bytes:
            try:
                passed_on += relay.feed(data)
            except BadFraming:
                return requests, "400"
            if not relay.reader.is_done:
                continue
            data = relay.reader.rest
        requests.append((head, passed_on))
        head = None
        if data:
            waiting.insert(0, data)
    return requests, "incomplete" if head is not None or reader.buffer else ""


def request_streams(data: bytes) -> str:
    """Requests one after the other on one connection, each with its body: where one ends the next one starts."""
    requests, ending = feed_requests([data])
    for pieces in (pieces_of(data), [data[at : at + 1] for at in range(min(len(data), 300))] + [data[300:]]):
        others, other_ending = feed_requests(pieces)
        assert [request[0] for request in others] == [request[0] for request in requests]
        assert other_ending == ending
        for (_, one), (_, other) in zip(requests, others, strict=True):
            # Chunks are passed on as they come: only what they hold has to be the same.
            assert second_of(one) == second_of(other)
    read, end, _ = second_reading.read_requests(data)
    assert len(read) >= len(requests)
    for (head, sent), theirs in zip(requests, read, strict=False):
        assert (head.method, head.target, head.host) == (theirs.method, theirs.path, theirs.host)
        assert second_of(sent)[1] == theirs.body.payload
    if not ending:
        assert len(read) == len(requests)
        assert end == len(data)
    return f"{len(requests)} {ending}"


def second_of(sent: bytes) -> tuple[list[Field], bytes]:
    """Fields and payload of what was sent as one request, and of nothing else."""
    request, end = second_reading.read_request(sent)
    assert end == len(sent)
    return request.head.fields, request.body.payload


# Responses.


def feed_response(pieces: list[bytes], known: KnownResponses | None = None) -> tuple[ResponseHead, bytes] | str:
    """Head and all bytes after it; or "bad", or "incomplete"."""
    data = b""
    for number, piece in enumerate(pieces):
        scanned = len(data)
        data += piece
        try:
            found = find_response_head(data, scanned, LIMIT_BYTES, known)
        except BadResponse:
            return "bad"
        if found is not None:
            return found[0], data[found[1] :] + b"".join(pieces[number + 1 :])
    return "incomplete"


def response_heads(data: bytes) -> str:
    """One response head and the start of its body."""
    outcome = feed_response([data])
    assert feed_response(pieces_of(data)) == outcome
    known = KnownResponses(lambda: None)
    for pieces in ([data], pieces_of(data), [data], pieces_of(data)):
        assert feed_response(pieces, known) == outcome
    if isinstance(outcome, str):
        assert outcome == "incomplete" or is_refusable_response(data)
        return outcome
    parsed, rest = outcome
    assert data.endswith(rest)
    head_bytes = data[: len(data) - len(rest)]
    check_response_head(parsed, head_bytes)
    for method in (b"GET", b"HEAD"):
        framing = response_framing(parsed, method == b"HEAD")
        for is_http11 in (True, False):
            check_forwarded_response(parsed, framing, method, is_http11, rest)
            remembered = feed_response([data], known)
            assert isinstance(remembered, tuple)
            check_sent_alike(remembered[0], parsed, framing, is_http11)
    return "head"


def check_sent_alike(remembered: ResponseHead, parsed: ResponseHead, framing: Framing, is_http11: bool) -> None:
    """A head that has been sent in other ways before gives the bytes that it gives the first time."""
    outgoing = client_framing(framing, is_http11)
    for will_close in (True, False, True):
        fresh = dataclasses.replace(parsed, sent={})
        assert response_head_bytes(remembered, outgoing, is_http11, will_close) == response_head_bytes(
            fresh, outgoing, is_http11, will_close
        )


def is_refusable_response(data: bytes) -> bool:
    """Whether the RFC asks or allows to refuse the response head that ``data`` starts with."""
    try:
        read, end = second_reading.read_response_head(data)
    except (second_reading.Unreadable, second_reading.Incomplete):
        return True
    lengths = read.head.values(b"content-length")
    return (
        read.status < 100
        or len(lengths) > 1
        or any(b"," in value or len(value) > 18 for value in lengths)
        or (read.is_chunked and [value.lower() for value in read.head.values(b"transfer-encoding")] != [b"chunked"])
        or len(read.head.fields) > 500
        or end > LIMIT_BYTES
    )


def check_response_head(parsed: ResponseHead, head_bytes: bytes) -> None:
    """``parsed`` is what a second reading, and h11, make of ``head_bytes``."""
    read, end = second_reading.read_response_head(head_bytes)
    assert end == len(head_bytes)
    assert (parsed.status, parsed.is_chunked, parsed.content_length) == (read.status, read.is_chunked, read.length)
    assert parsed.status_line == b"%d %b" % (read.status, read.head.start[2])
    options = read.head.members(b"connection")
    assert lowered(parsed.fields) == [
        (name, value) for name, value in read.head.fields if name not in _RESPONSE_HOP_BY_HOP and name not in options
    ]
    if parsed.status == 101 or parsed.status > 599:
        return  # h11 takes 101 only when asked for, and knows no other status codes
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=2 * LIMIT_BYTES)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(head_bytes)
    event = connection.next_event()
    assert isinstance(event, h11.InformationalResponse if parsed.status < 200 else h11.Response)
    assert event.status_code == parsed.status
    theirs = [(name.lower(), value) for name, value in event.headers]
    assert [field for field in lowered(parsed.fields) if field not in theirs] == []


def check_forwarded_response(
    parsed: ResponseHead, framing: Framing, method: bytes, is_http11: bool, rest: bytes
) -> None:
    """What is sent to the client is a head that means the same, and a body that ends where this one does."""
    if parsed.status < 200:
        sent = interim_head_bytes(parsed)
        interim, end = second_reading.read_response_head(sent)
        assert end == len(sent)
        assert interim.status == parsed.status
        assert not interim.is_chunked
        assert interim.length is None
        return
    outgoing = client_framing(framing, is_http11)
    for will_close in (True, False):
        sent = response_head_bytes(parsed, outgoing, is_http11, will_close)
        found = find_response_head(sent, 0, 2 * LIMIT_BYTES)
        assert found is not None
        again, end = found
        assert end == len(sent)
        check_response_head(again, sent)
        assert (again.status, again.status_line, again.fields) == (parsed.status, parsed.status_line, parsed.fields)
        assert again.keep_alive is not will_close
    relayed = b"" if framing is Framing.NONE else relay_response(parsed, framing, outgoing, rest)
    if relayed is None:
        return
    answers, extra = second_reading.read_answers(sent + relayed, [method])
    assert extra == b""
    assert len(answers) == 1
    if framing is Framing.CHUNKED:
        assert answers[0].payload == second_reading.Cursor(rest).chunked_body().payload
    elif framing is Framing.LENGTH:
        assert answers[0].payload == rest[: parsed.content_length]
    else:
        assert answers[0].payload == (rest if framing is Framing.UNTIL_CLOSE else b"")


def relay_response(parsed: ResponseHead, framing: Framing, outgoing: Framing, rest: bytes) -> bytes | None:
    """The body as it is passed on, or None when ``rest`` is not all of it."""
    relay = response_relay(parsed, framing, outgoing)
    passed_on = b""
    try:
        for piece in pieces_of(rest):
            passed_on += relay.feed(piece)
            if relay.reader.is_done:
                return passed_on
        if relay.reader.is_done:
            return passed_on
        return passed_on + relay.feed_end()
    except BadFraming:
        return None


TARGETS: Final[dict[str, Callable[[bytes], str]]] = {
    "request_heads": request_heads,
    "chunked_bodies": chunked_bodies,
    "request_streams": request_streams,
    "response_heads": response_heads,
}
