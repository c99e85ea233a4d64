"""What goes out is serialised anew, says where it came from, and parses to the same again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rollbridge.proxy.fields import Field
from rollbridge.proxy.forward import ClientFacts, interim_head_bytes, request_head_bytes, response_head_bytes
from rollbridge.proxy.framing import Framing
from rollbridge.proxy.head import RequestHead, parse_request_head
from rollbridge.proxy.request_fields import BadRequest
from rollbridge.proxy.response_head import ResponseHead, find_response_head

STRANGER = ClientFacts.of(b"203.0.113.9", b"127.0.0.1:8182", b"8182", False)
FRIEND = ClientFacts.of(b"127.0.0.1", b"127.0.0.1:8182", b"8182", True)


def forwarded(data: bytes, client: ClientFacts = STRANGER) -> tuple[bytes, dict[bytes, bytes]]:
    """First line and fields (names lowercased) of what the application gets for ``data``."""
    out = request_head_bytes(parse_request_head(data), client)
    line, *lines = out.removesuffix(b"\r\n\r\n").split(b"\r\n")
    fields = [one.partition(b": ") for one in lines]
    assert len({name.lower() for name, _, _ in fields}) == len(fields)
    return line, {name.lower(): value for name, _, value in fields}


def response(data: bytes) -> ResponseHead:
    found = find_response_head(data, 0, 10_000)
    assert found is not None
    return found[0]


def test_a_request_keeps_its_host_and_tells_where_it_came_from() -> None:
    line, fields = forwarded(b"GET /x?y HTTP/1.1\r\nHost: Example.org:99\r\nAccept: */*\r\n\r\n")
    assert line == b"GET /x?y HTTP/1.1"
    assert fields == {
        b"host": b"Example.org:99",
        b"accept": b"*/*",
        b"x-forwarded-for": b"203.0.113.9",
        b"x-forwarded-proto": b"http",
        b"x-forwarded-port": b"8182",
        b"x-forwarded-host": b"Example.org:99",
        b"via": b"1.1 rollbridge",
    }


CLAIMS = (
    b"X-Forwarded-For: 198.51.100.1\r\nx-forwarded-for: 198.51.100.2\r\nX-Forwarded-Proto: https\r\n"
    b"X-Forwarded-Port: 443\r\nX-Forwarded-Host: public.example\r\nX-Forwarded-User: root\r\n"
    b"Forwarded: for=1\r\nX-Real-IP: 9\r\n"
)


def test_a_stranger_is_not_believed() -> None:
    _, fields = forwarded(b"GET / HTTP/1.1\r\nHost: a\r\n" + CLAIMS + b"\r\n")
    assert fields[b"x-forwarded-for"] == b"203.0.113.9"
    assert (fields[b"x-forwarded-proto"], fields[b"x-forwarded-port"], fields[b"x-forwarded-host"]) == (
        b"http",
        b"8182",
        b"a",
    )
    assert not {b"x-forwarded-user", b"forwarded", b"x-real-ip"} & fields.keys()


def test_a_trusted_proxy_is_believed_and_its_chain_extended() -> None:
    _, fields = forwarded(b"GET / HTTP/1.1\r\nHost: a\r\n" + CLAIMS + b"Via: 1.0 nginx\r\n\r\n", FRIEND)
    assert fields[b"x-forwarded-for"] == b"198.51.100.1, 198.51.100.2, 127.0.0.1"
    assert fields[b"x-forwarded-proto"] == b"https"
    assert fields[b"x-forwarded-port"] == b"443"
    assert fields[b"x-forwarded-host"] == b"public.example"
    assert fields[b"x-real-ip"] == b"9"
    assert fields[b"via"] == b"1.0 nginx, 1.1 rollbridge"


def test_http10_request_without_host_gets_the_address_it_came_to() -> None:
    line, fields = forwarded(b"GET / HTTP/1.0\r\n\r\n")
    assert line == b"GET / HTTP/1.1"
    assert fields[b"host"] == b"127.0.0.1:8182"
    assert fields[b"via"] == b"1.0 rollbridge"


def test_framing_is_what_was_understood() -> None:
    base = b"POST / HTTP/1.1\r\nHost: a\r\n"
    assert forwarded(base + b"Content-Length: 007\r\n\r\n")[1][b"content-length"] == b"7"
    assert forwarded(base + b"Content-Length: 0\r\n\r\n")[1][b"content-length"] == b"0"
    assert forwarded(base + b"Transfer-Encoding: CHUNKED\r\n\r\n")[1][b"transfer-encoding"] == b"chunked"
    assert not {b"content-length", b"transfer-encoding"} & forwarded(base + b"\r\n")[1].keys()


def test_connection_names_only_what_is_meant_for_the_application() -> None:
    base = b"GET / HTTP/1.1\r\nHost: a\r\n"
    fields = forwarded(
        base + b"Connection: Upgrade, X-Mine\r\nUpgrade: websocket\r\nX-Mine: 1\r\nTE: trailers\r\n\r\n"
    )[1]
    assert (fields[b"connection"], fields[b"upgrade"], fields[b"te"]) == (b"Upgrade, TE", b"websocket", b"trailers")
    assert b"x-mine" not in fields
    assert forwarded(base + b"TE: trailers, gzip\r\n\r\n")[1][b"te"] == b"trailers"
    assert not {b"connection", b"te"} & forwarded(base + b"TE: gzip\r\nConnection: keep-alive\r\n\r\n")[1].keys()
    assert forwarded(base + b"Expect: 100-continue\r\n\r\n")[1][b"expect"] == b"100-continue"


NAMES = st.sampled_from(
    [b"Accept", b"X-A", b"Via", b"Connection", b"X-Forwarded-For", b"TE", b"Upgrade", b"Content-Length"]
)
VALUES = st.sampled_from([b"a", b"", b"5", b"upgrade", b"close, X-A", b"trailers", b"a\tb", b"1.1 x"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), st.booleans())
def test_parse_serialise_parse_is_stable(fields: list[Field], is_trusted: bool) -> None:
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    client = FRIEND if is_trusted else STRANGER
    try:
        first = parse_request_head(b"GET /x HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")
    except BadRequest:
        return
    again = parse_request_head(request_head_bytes(first, client))

    def essence(head: RequestHead) -> tuple[object, ...]:
        return (head.method, head.target, head.host, head.fields, head.body_bytes, head.has_length, head.upgrade)

    assert essence(again) == essence(first)


def test_response_says_how_its_body_ends_for_this_client() -> None:
    head = response(b"HTTP/1.0 200 Fine\r\nServer: x\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n")
    assert response_head_bytes(head, Framing.LENGTH, True, False) == (
        b"HTTP/1.1 200 Fine\r\nServer: x\r\nContent-Length: 5\r\n\r\n"
    )
    assert response_head_bytes(head, Framing.LENGTH, True, True).endswith(b"Connection: close\r\n\r\n")
    assert response_head_bytes(head, Framing.LENGTH, False, False).endswith(b"Connection: keep-alive\r\n\r\n")
    chunked = response(b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in response_head_bytes(chunked, Framing.CHUNKED, True, False)
    assert b"chunked" not in response_head_bytes(chunked, Framing.UNTIL_CLOSE, False, True)
    # HEAD and 304 keep the length of the body that is not there; 204 has none.
    assert b"Content-Length: 5" in response_head_bytes(head, Framing.NONE, True, False)
    none = response(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")
    assert b"Content-Length" not in response_head_bytes(none, Framing.NONE, True, False)


def test_426_and_101_say_which_protocol() -> None:
    head = response(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n")
    assert b"Upgrade: websocket\r\nConnection: Upgrade, close\r\n" in response_head_bytes(
        head, Framing.LENGTH, True, True
    )
    switch = response(
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade, x-gone\r\nX-Gone: 1\r\nX: y\r\n\r\n"
    )
    assert interim_head_bytes(switch) == (
        b"HTTP/1.1 101 Switching\r\nX: y\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    hints = response(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\nContent-Length: 5\r\n\r\n")
    assert interim_head_bytes(hints) == b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
