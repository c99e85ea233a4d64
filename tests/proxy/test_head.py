"""Request heads: what is understood, what is refused, and that neither depends on packets or on size."""

from __future__ import annotations

import contextlib
import time

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollbridge.proxy.head import HeadReader, RequestHead, parse_request_head
from rollbridge.proxy.request_fields import CHUNKED, BadRequest

HEAD = (
    b"POST /path?query=1 HTTP/1.1\r\nHost: example.org:8080\r\nUser-Agent: a b  c \t\r\nX-Empty:\r\n"
    b"Accept:*/*\r\nContent-Length: 5\r\n\r\n"
)


def head(*lines: bytes, start: bytes = b"GET / HTTP/1.1", host: bytes | None = b"Host: a") -> bytes:
    return b"\r\n".join([start, *([host] if host else []), *lines, b"", b""])


def refusal(data: bytes, limit_bytes: int = 65536) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        HeadReader(limit_bytes).feed(data)
    return caught.value


def read_in_pieces(data: bytes, cuts: list[int]) -> tuple[RequestHead, bytes] | int | None:
    """The outcome of feeding ``data`` cut at ``cuts``: head and rest, status of the refusal, or None."""
    reader = HeadReader(65536)
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        try:
            found = reader.feed(data[at:cut])
        except BadRequest as error:
            return error.status
        at = cut
        if found is not None:
            return found[0], found[1] + data[at:]
    return None


def test_a_head_is_understood() -> None:
    parsed = parse_request_head(HEAD)
    assert (parsed.method, parsed.target, parsed.is_http11, parsed.host) == (
        b"POST",
        b"/path?query=1",
        True,
        b"example.org:8080",
    )
    assert parsed.fields == [(b"User-Agent", b"a b  c"), (b"X-Empty", b""), (b"Accept", b"*/*")]
    assert (parsed.body_bytes, parsed.has_length, parsed.keep_alive) == (5, True, True)


def test_head_is_the_same_however_the_bytes_arrive() -> None:
    whole = HeadReader(len(HEAD)).feed(HEAD + b"body")
    assert whole == (parse_request_head(HEAD), b"body")
    for cut in range(len(HEAD)):
        reader = HeadReader(len(HEAD))
        assert reader.feed(HEAD[:cut]) is None
        assert reader.feed(HEAD[cut:] + b"body") == whole
    reader = HeadReader(len(HEAD))
    for byte in HEAD[:-1]:
        assert reader.feed(bytes([byte])) is None
    assert reader.feed(HEAD[-1:]) == (parse_request_head(HEAD), b"")


def test_one_empty_line_before_a_request_is_ignored_however_it_arrives() -> None:
    for data in (b"\r\n" + HEAD, b"\r\n\r\n" + HEAD):
        outcomes = {str(read_in_pieces(data, [cut])) for cut in range(len(data))}
        assert len(outcomes) == 1
    assert read_in_pieces(b"\r\n" + HEAD, [1, 2]) == (parse_request_head(HEAD), b"")
    assert read_in_pieces(b"\r\n\r\n" + HEAD, []) == 400


def test_reader_reads_the_next_request_after_the_first() -> None:
    reader = HeadReader(1000)
    _, rest = reader.feed(HEAD + b"\r\n" + HEAD) or (None, b"")
    assert reader.feed(rest[:3]) is None
    assert reader.feed(rest[3:]) == (parse_request_head(HEAD), b"")


REFUSED = {
    "bare LF after the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "bare LF throughout": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF in a field": (head(b"X: a\nY: b"), 400),
    "bare CR in a field": (head(b"X: a\rY: b"), 400),
    "bare CR in the request line": (b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "NUL in a value": (head(b"X: a\x00b"), 400),
    "control character in a value": (head(b"X: a\x1bb"), 400),
    "DEL in a value": (head(b"X: a\x7fb"), 400),
    "NUL in the target": (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "obs-fold": (head(b"X: a", b" b"), 400),
    "obs-fold with a tab": (head(b"X: a", b"\tb"), 400),
    "fold in the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "space before the colon": (head(b"X : a"), 400),
    "space before Content-Length's colon": (head(b"Content-Length : 5"), 400),
    "tab before the colon": (head(b"X\t: a"), 400),
    "no colon": (head(b"nonsense"), 400),
    "empty field name": (head(b": a"), 400),
    "field name that is no token": (head(b"X(y): a"), 400),
    "field name in UTF-8": (head("Ä: a".encode()), 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "no version": (b"GET / \r\nHost: a\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "tab for a space": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space at the end of the line": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "space at the start of the line": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "lowercase version": (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    "version with more digits": (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
    "version with a zero": (b"GET / HTTP/01.1\r\nHost: a\r\n\r\n", 400),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/3.0": (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    "no Host": (head(host=None), 400),
    "no Host but one in the target": (head(start=b"GET http://a/ HTTP/1.1", host=None), 400),
    "two Hosts": (head(b"Host: a"), 400),
    "two Hosts in other cases": (head(b"hOsT: b"), 400),
    "list of Hosts": (head(host=b"Host: a, b"), 400),
    "Host with a path": (head(host=b"Host: a/b"), 400),
    "Host with userinfo": (head(host=b"Host: u@a"), 400),
    "Host with a port that is none": (head(host=b"Host: a:b"), 400),
    "Host in brackets that is no address": (head(host=b"Host: [a b]"), 400),
    "Host that disagrees with the target": (head(start=b"GET http://b/ HTTP/1.1"), 400),
    "Host with another port than the target": (head(start=b"GET http://a:81/ HTTP/1.1"), 400),
    "absolute target without a host": (head(start=b"GET http:/// HTTP/1.1"), 400),
    "absolute target with a port only": (head(start=b"GET http://:80/ HTTP/1.1"), 400),
    "absolute target with userinfo": (head(start=b"GET http://u@a/ HTTP/1.1"), 400),
    "absolute target of another scheme": (head(start=b"GET ftp://a/ HTTP/1.1"), 400),
    "target that is no path": (head(start=b"GET index.html HTTP/1.1"), 400),
    "target with a fragment": (head(start=b"GET /a#b HTTP/1.1"), 400),
    "target not in ASCII": (head(start="GET /ä HTTP/1.1".encode()), 400),
    "asterisk with GET": (head(start=b"GET * HTTP/1.1"), 400),
    "CONNECT": (head(start=b"CONNECT a:443 HTTP/1.1"), 501),
    "CONNECT with a path": (head(start=b"CONNECT / HTTP/1.1"), 501),
    "authority-form with GET": (head(start=b"GET a:443 HTTP/1.1"), 400),
    "two equal Content-Lengths": (head(b"Content-Length: 5", b"Content-Length: 5"), 400),
    "two Content-Lengths": (head(b"Content-Length: 5", b"Content-Length: 6"), 400),
    "list of Content-Lengths": (head(b"Content-Length: 5, 5"), 400),
    "Content-Length with a sign": (head(b"Content-Length: +5"), 400),
    "negative Content-Length": (head(b"Content-Length: -5"), 400),
    "hexadecimal Content-Length": (head(b"Content-Length: 0x5"), 400),
    "empty Content-Length": (head(b"Content-Length:"), 400),
    "Content-Length with a space": (head(b"Content-Length: 1 2"), 400),
    "Content-Length with an underscore": (head(b"Content-Length: 1_2"), 400),
    "Content-Length beyond 64 bits": (head(b"Content-Length: 99999999999999999999"), 400),
    "Content-Length in other digits": (head("Content-Length: ٣".encode()), 400),
    "CL.TE": (head(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
    "TE.CL": (head(b"Transfer-Encoding: chunked", b"Content-Length: 5"), 400),
    "two Transfer-Encodings": (head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
    "chunked twice": (head(b"Transfer-Encoding: chunked, chunked"), 400),
    "gzip, chunked": (head(b"Transfer-Encoding: gzip, chunked"), 400),
    "chunked, identity": (head(b"Transfer-Encoding: chunked, identity"), 400),
    "identity": (head(b"Transfer-Encoding: identity"), 400),
    "unknown coding": (head(b"Transfer-Encoding: xchunked"), 400),
    "quoted chunked": (head(b'Transfer-Encoding: "chunked"'), 400),
    "chunked with a vertical tab": (head(b"Transfer-Encoding: \x0bchunked"), 400),
    "chunked with a parameter": (head(b"Transfer-Encoding: chunked;q=1"), 400),
    "empty Transfer-Encoding": (head(b"Transfer-Encoding:"), 400),
    "Transfer-Encoding in HTTP/1.0": (head(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"), 400),
    "another expectation": (head(b"Expect: 200-ok"), 417),
}


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_hostile_head_is_refused_however_it_arrives(data: bytes, status: int) -> None:
    assert refusal(data).status == status
    for cut in range(1, len(data)):
        assert read_in_pieces(data, [cut]) == status
    assert read_in_pieces(data, list(range(len(data)))) == status


def test_limits_are_exact_and_name_what_is_too_large() -> None:
    data = head(b"X: " + b"a" * 100)
    for limit in (len(data), len(data) + 1):
        assert HeadReader(limit).feed(data) is not None
    assert refusal(data, len(data) - 1).status == 431
    long_target = b"GET /" + b"a" * 500 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert refusal(long_target, 400).status == 414
    assert refusal(head(*[b"X:"] * 500)).status == 431
    for cut in range(1, len(data)):
        reader = HeadReader(len(data) - 1)
        with pytest.raises(BadRequest):
            assert reader.feed(data[:cut]) is None
            reader.feed(data[cut:])


def test_a_head_that_never_ends_is_not_kept_beyond_the_limit() -> None:
    reader = HeadReader(1000)
    with pytest.raises(BadRequest) as caught:
        for _ in range(1001):
            assert reader.feed(b"a") is None
    assert caught.value.status == 414


TARGETS = {
    (b"GET", b"http://a/x?y"): (b"/x?y", b"a"),
    (b"GET", b"HTTP://A"): (b"/", b"A"),
    (b"GET", b"http://a?q"): (b"/?q", b"a"),
    (b"GET", b"http://a:80/"): (b"/", b"a:80"),
    (b"OPTIONS", b"*"): (b"*", b"a"),
    (b"OPTIONS", b"http://a"): (b"*", b"a"),
    (b"GET", b"//a/b"): (b"//a/b", b"a"),
    (b"GET", b'/a|b{c}"[d]\\'): (b'/a|b{c}"[d]\\', b"a"),
}


@pytest.mark.parametrize(("asked", "expected"), TARGETS.items())
def test_targets_become_origin_form(asked: tuple[bytes, bytes], expected: tuple[bytes, bytes]) -> None:
    parsed = parse_request_head(head(start=b"%b %b HTTP/1.1" % asked))
    assert (parsed.target, parsed.host) == expected


@pytest.mark.parametrize(
    "host", [b"", b"a", b"a:80", b"a:", b"[::1]", b"[::1]:80", b"a_b.example", b"xn--a", b"1.2.3.4"]
)
def test_valid_hosts_are_taken(host: bytes) -> None:
    assert parse_request_head(head(host=b"Host: " + host)).host == host


def test_http10_needs_no_host_and_keeps_alive_only_when_asked() -> None:
    assert parse_request_head(b"GET / HTTP/1.0\r\n\r\n").host is None
    for connection, is_kept in (
        (b"", False),
        (b"Connection: keep-alive", True),
        (b"Connection: keep-alive, close", False),
    ):
        lines = [connection] if connection else []
        assert parse_request_head(head(*lines, start=b"GET / HTTP/1.0")).keep_alive is is_kept
    for connection, is_kept in ((b"X: y", True), (b"Connection: Close", False), (b"Connection: a,close ,b", False)):
        assert parse_request_head(head(connection)).keep_alive is is_kept


def test_hop_by_hop_fields_and_those_named_by_connection_are_taken_out() -> None:
    parsed = parse_request_head(
        head(
            b"Connection: X-Mine, close, x-other",
            b"X-Mine: 1",
            b"X-Other: 2",
            b"X-Stays: 3",
            b"Keep-Alive: 5",
            b"Close: 1",
            b"Proxy-Connection: close",
            b"Proxy-Authorization: secret",
            b"Proxy: http://evil",
            b"TE: trailers;q=0.5, gzip",
            b"Upgrade: h2c",
        )
    )
    assert parsed.fields == [(b"X-Stays", b"3")]
    assert parsed.upgrade is None
    assert not parsed.accepts_trailers


def test_connection_cannot_take_out_what_frames_or_routes_the_request() -> None:
    parsed = parse_request_head(
        head(b"Connection: host, content-length, x-forwarded-for", b"Content-Length: 3", b"X-Forwarded-For: b")
    )
    assert (parsed.host, parsed.body_bytes, parsed.forwarded) == (b"a", 3, [(b"x-forwarded-for", b"b")])


def test_fields_that_an_application_may_mistake_for_ours_are_dropped() -> None:
    parsed = parse_request_head(
        head(
            b"X_Forwarded_For: evil",
            b"Content_Length: 9",
            b"Transfer_encoding: chunked",
            b"my_own: fine",
            b"Cookie: a_b=c_d",
        )
    )
    assert parsed.fields == [(b"my_own", b"fine"), (b"Cookie", b"a_b=c_d")]
    assert parsed.forwarded == []


def test_upgrade_counts_only_when_connection_names_it_in_http11() -> None:
    assert parse_request_head(head(b"Upgrade: websocket")).upgrade is None
    assert parse_request_head(head(b"Upgrade: websocket", b"Connection: keep-alive, Upgrade")).upgrade == b"websocket"
    assert parse_request_head(head(b"Upgrade:", b"Connection: Upgrade")).upgrade is None
    assert parse_request_head(head(b"Upgrade: a", b"Connection: upgrade", start=b"GET / HTTP/1.0")).upgrade is None


def test_http2_is_not_asked_for() -> None:
    """Requests within such a tunnel would reach the application unread."""
    asked = head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: H2C", b"HTTP2-Settings: AAMAAABk")
    assert parse_request_head(asked).upgrade is None
    hidden = parse_request_head(head(b"Connection: Upgrade", b"Upgrade: h2c, websocket,h2", b"HTTP2-Settings: AAMA"))
    assert (hidden.upgrade, hidden.fields) == (b"websocket", [])


def test_framing_and_expectation_are_read() -> None:
    assert parse_request_head(head(b"transfer-encoding: CHUNKED")).body_bytes == CHUNKED
    assert parse_request_head(head(b"Content-Length: 0")).has_length
    assert parse_request_head(head(b"Content-Length: 007")).body_bytes == 7
    assert parse_request_head(head(b"Expect: 100-Continue")).expects_continue
    assert not parse_request_head(head(b"Expect: 100-continue", start=b"POST / HTTP/1.0")).expects_continue


PIECES = st.sampled_from(
    b"GET| |/|HTTP/1.1|\r\n|\r|\n|Host|:|a|5|\t|\x00|Content-Length|Transfer-Encoding|chunked|close|,|\xff|*".split(
        b"|"
    )
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES | st.binary(max_size=3), max_size=30), st.lists(st.integers(0, 200), max_size=5))
def test_any_bytes_give_the_same_outcome_in_any_packets(pieces: list[bytes], cuts: list[int]) -> None:
    for data in (b"".join(pieces), b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(pieces) + b"\r\n\r\n"):
        assert read_in_pieces(data, [cut for cut in cuts if cut < len(data)]) == read_in_pieces(data, [])


TOKENS = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8).map(str.encode)
VALUES = st.text('abc \t,;="/é', max_size=20).map(lambda text: text.encode("latin-1"))


@settings(max_examples=200, deadline=None)
@given(TOKENS, st.lists(st.tuples(TOKENS, VALUES), max_size=8))
def test_h11_reads_no_accepted_head_otherwise(method: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    data = head(*[name + b":" + value for name, value in fields], start=method + b" /x HTTP/1.1")
    try:
        parsed = parse_request_head(data)
    except BadRequest:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (parsed.method, parsed.target)
    theirs = [(name, value) for name, value in event.headers.raw_items()]
    assert [field for field in parsed.fields if field not in theirs] == []


@pytest.mark.parametrize(
    "unit",
    [
        b"X: a\r\n",
        b"X: " + b" " * 50 + b"\r\n",
        b"a",
        b"X:a, ",
        b" ",
        b"\t ",
        b"X_Y: 1\r\n",
        b"Connection: a, b, c\r\n",
        b"/ ",
    ],
)
def test_time_grows_with_the_input_and_no_faster(unit: bytes) -> None:
    """Four times the input may cost at most some ten times the time: quadratic would be sixteen, and worse after it."""

    def seconds(count: int) -> float:
        data = b"GET / HTTP/1.1\r\nHost: a\r\n" + unit * count + b"b\r\n\r\n"
        best = float("inf")
        for _ in range(10):
            began = time.process_time()
            for _ in range(5):
                with contextlib.suppress(BadRequest):
                    HeadReader(10_000_000).feed(data)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(8000) < 10 * seconds(2000) + 0.002
