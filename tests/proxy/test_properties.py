"""What holds for every message: any packets give the same, others read the same, forwarding changes no meaning.

The targets of the fuzzer (tests/fuzz/targets.py) assert it; here they get messages made to be nearly right.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from rollbridge.proxy.chunked import BadFraming, ChunkedReader
from rollbridge.proxy.head import BadRequest, HeadReader
from rollbridge.proxy.response_head import BadResponse, find_response_head
from tests.fuzz import targets

MOSTLY = settings(max_examples=250, deadline=None)


def often(usual: list[bytes], odd: list[bytes]) -> st.SearchStrategy[bytes]:
    """Nine times in ten something that is right, so that whole messages often are."""
    return st.sampled_from(usual * (9 * len(odd) // len(usual) + 1) + odd)


METHODS = often(
    [b"GET", b"POST", b"HEAD", b"OPTIONS"], [b"CONNECT", b"get", b"M-!#$%&'*+.^_`|~9", b"G(T", b"", b"\xc4"]
)
REQUEST_TARGETS = often(
    [b"/", b"/x?y=1", b"*", b"http://a", b"http://a:80/x", b"HTTPS://A?q", b"//a/b", b"/%00", b"/{|}"],
    [b"/#x", b"x", b"http://b/", b"http://u@a/", b"ftp://a/", b"a:80", b"http://", b"/\xff", b"/a b", b""],
)
VERSIONS = often([b"HTTP/1.1", b"HTTP/1.0"], [b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.10", b"HTTP/11"])
ENDS = often([b"\r\n"], [b"\n", b"\r", b"\r\n ", b"\r\r\n", b"\x00\r\n", b""])
COLONS = often([b": ", b":", b":\t "], [b" :", b"", b"::"])
NAMES = often(
    [
        b"X",
        b"X-Forwarded-For",
        b"Connection",
        b"Upgrade",
        b"TE",
        b"Via",
        b"X_Y",
        b"Content_Length",
        b"Cookie",
        b"Expect",
    ],
    [b"Host", b"Content-Length", b"Transfer-Encoding", b"", b"X Y", b" X", b"X\x00", b"\xc4"],
)
VALUES = often(
    [b"", b"a", b"a b\t c ", b"close", b"keep-alive, X", b"upgrade", b"trailers", b"100-continue", b"\xff", b"host"],
    [b"5", b"chunked", b"a\x00", b"a\rb", b"a\nb", b"\x7f", b"a\r\n b"],
)
FRAMINGS = often(
    [
        b"",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"content-length:05\r\n",
    ],
    [
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding:\r\n",
    ],
)
HOSTS = often([b"Host: a\r\n", b"host:A:80\r\n"], [b"", b"Host: a\r\nHost: a\r\n", b"Host: u@a\r\n", b"Host: a, b\r\n"])
SIZES = often([b"0", b"1", b"5", b"005", b"A"], [b"", b"-1", b"0x5", b" 5", b"5 ", b"5_0", b"f" * 15, b"f" * 16])
EXTENSIONS = often([b"", b";a", b";a=b", b' ; a = "b;\\""'], [b";", b";a=", b';a="', b"; a b", b";a\x00", b";a\n"])
BODY_BYTES = st.sampled_from([b"hello", b"", b"01234", b"0123456789", b"GET /", b"0\r\n\r\n", b"\r\n"])
SMALL = st.integers(0, 60)


def fields() -> st.SearchStrategy[bytes]:
    return st.lists(st.builds(lambda *parts: b"".join(parts), NAMES, COLONS, VALUES, ENDS), max_size=4).map(b"".join)


def chunked_bodies() -> st.SearchStrategy[bytes]:
    chunk = st.builds(lambda *parts: b"".join(parts), SIZES, EXTENSIONS, ENDS, BODY_BYTES, ENDS)
    good = st.binary(min_size=1, max_size=20).map(lambda data: b"%x\r\n%b\r\n" % (len(data), data))
    return st.builds(
        lambda chunks, *parts: b"".join([*chunks, *parts]),
        st.lists(good | chunk, max_size=4),
        often([b"0"], [b"", b"00", b"0 "]),
        EXTENSIONS,
        ENDS,
        st.just(b"") | fields(),
        ENDS,
    )


def requests() -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda method, target, version, end, *parts: b" ".join([method, target, version]) + end + b"".join(parts),
        METHODS,
        REQUEST_TARGETS,
        VERSIONS,
        ENDS,
        HOSTS,
        FRAMINGS,
        fields(),
        ENDS,
        st.sampled_from([b"", b"hello", b"hello\r\n", b"5\r\nhello\r\n0\r\n\r\n"]) | chunked_bodies(),
    )


def responses() -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda version, status, reason, *parts: version + b" " + status + reason + b"".join(parts),
        VERSIONS,
        often([b"200", b"204", b"304", b"404", b"103", b"101", b"426", b"999"], [b"20", b"2000", b"099", b"2OO", b""]),
        often([b" OK", b" ", b"", b" Very\tOK \xff"], [b"OK", b" \x00", b"\tOK"]),
        ENDS,
        FRAMINGS,
        fields(),
        ENDS,
        st.sampled_from([b"", b"hello", b"hello and more"]) | chunked_bodies(),
    )


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """``data`` in pieces of these sizes, over and over; none of them: whole."""
    sizes = [size + 1 for size in cuts] or [len(data) or 1]
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    return pieces


@MOSTLY
@given(requests(), st.lists(SMALL, max_size=5))
def test_request_heads_are_read_alike_in_any_packets_and_by_everybody(data: bytes, cuts: list[int]) -> None:
    event(targets.request_heads(data))
    assert targets.feed_heads(cut(data, cuts)) == targets.feed_heads([data])


@MOSTLY
@given(chunked_bodies(), st.binary(max_size=3), st.lists(SMALL, max_size=5))
def test_chunked_bodies_are_read_alike_in_any_packets_and_by_everybody(
    data: bytes, rest: bytes, cuts: list[int]
) -> None:
    event(targets.chunked_bodies(data + rest))
    assert targets.feed_chunks(cut(data + rest, cuts)) == targets.feed_chunks([data + rest])


@MOSTLY
@given(st.lists(requests(), min_size=1, max_size=3).map(b"".join), st.lists(SMALL, max_size=5))
def test_requests_one_after_the_other_end_where_everybody_sees_them_end(data: bytes, cuts: list[int]) -> None:
    event(targets.request_streams(data))
    ours, ending = targets.feed_requests(cut(data, cuts))
    whole, same_ending = targets.feed_requests([data])
    assert [request[0] for request in ours] == [request[0] for request in whole]
    assert ending == same_ending


@MOSTLY
@given(responses(), st.lists(SMALL, max_size=5))
def test_responses_are_read_alike_in_any_packets_and_by_everybody(data: bytes, cuts: list[int]) -> None:
    event(targets.response_heads(data))
    assert targets.feed_response(cut(data, cuts)) == targets.feed_response([data])


def read_head(pieces: list[bytes]) -> None:
    reader = HeadReader(10_000_000)
    with contextlib.suppress(BadRequest):
        for piece in pieces:
            reader.feed(piece)


def read_chunks(pieces: list[bytes]) -> None:
    reader = ChunkedReader()
    with contextlib.suppress(BadFraming):
        for piece in pieces:
            reader.feed(piece)


def read_response(pieces: list[bytes]) -> None:
    data = b""
    with contextlib.suppress(BadResponse):
        for piece in pieces:
            scanned = len(data)
            data += piece
            find_response_head(data, scanned, 10_000_000)


GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
# What to read, how it begins, what is repeated, how it ends; as much of it as the limits allow where they are low.
FLOODS: dict[str, tuple[Callable[[list[bytes]], None], bytes, bytes, bytes, int]] = {
    "method": (read_head, b"", b"A", b" / HTTP/1.1\r\n\r\n", 64_000),
    "target": (read_head, b"GET ", b"/", b" HTTP/1.1\r\n\r\n", 64_000),
    "userinfo": (read_head, b"GET http://", b"a@", b" HTTP/1.1\r\nHost: a\r\n\r\n", 64_000),
    "slashes": (read_head, b"GET http://a", b"/?", b" HTTP/1.1\r\nHost: a\r\n\r\n", 64_000),
    "nearly a version": (read_head, b"GET ", b" HTTP/1.", b"\r\nHost: a\r\n\r\n", 64_000),
    "fields": (read_head, GET, b"X: yyyy\r\n", b"\r\n", 64_000),
    "empty fields": (read_head, GET, b"a:\r\n", b"\r\n", 64_000),
    "fields that end badly": (read_head, GET, b"a:\r\n", b"b\r\n\r\n", 64_000),
    "field name": (read_head, GET, b"a", b"\r\n\r\n", 64_000),
    "field name and a blank": (read_head, GET, b"a", b" : b\r\n\r\n", 64_000),
    "colons": (read_head, GET + b"X", b":", b"\r\n\r\n", 64_000),
    "names and colons": (read_head, GET, b"a:", b"\x00\r\n\r\n", 64_000),
    "blanks before a value": (read_head, GET + b"X:", b" \t", b"b\r\n\r\n", 64_000),
    "blanks after a value": (read_head, GET + b"X: b", b"\t ", b"\r\n\r\n", 64_000),
    "blanks within a value": (read_head, GET + b"X: b", b" b", b"\r\n\r\n", 64_000),
    "connection options": (read_head, GET + b"Connection: ", b"a, ", b"\r\n\r\n", 64_000),
    "connection fields": (read_head, GET, b"Connection: a\r\n", b"\r\n", 7_000),
    "upgrades": (read_head, GET + b"Connection: upgrade\r\n", b"Upgrade: abc\r\n", b"\r\n", 6_800),
    "Host": (read_head, b"GET / HTTP/1.1\r\nHost: ", b"a.", b"/\r\n\r\n", 64_000),
    "Host's address": (read_head, b"GET / HTTP/1.1\r\nHost: [", b":", b"\r\n\r\n", 64_000),
    "length": (read_head, GET + b"Content-Length: ", b"1", b"\r\n\r\n", 64_000),
    "carriage returns": (read_head, b"GET / HTTP/1.1", b"\r", b"\n\r\n", 64_000),
    "reason": (read_response, b"HTTP/1.1 200 ", b"O ", b"\r\n\r\n", 64_000),
    "response fields": (read_response, OK, b"X: yyyy\r\n", b"\r\n", 64_000),
    "response colons": (read_response, OK + b"X", b":", b"\r\r\n\r\n", 64_000),
    "response blanks": (read_response, OK + b"X:", b" ", b"\x00\r\n\r\n", 64_000),
    "chunks": (read_chunks, b"", b"1\r\na\r\n", b"0\r\n\r\n", 64_000),
    "large chunk": (read_chunks, b"fa00\r\n", b"a", b"\r\n0\r\n\r\n", 64_000),
    "chunk size": (read_chunks, b"", b"0", b"\r\n", 64_000),
    "extensions": (read_chunks, b"1", b";a=b", b"\r\n", 4_000),
    "extensions and blanks": (read_chunks, b"1", b" ;a", b"\r\n", 4_000),
    "extensions in quotes": (read_chunks, b"1", b';a="b"', b'"\r\n', 4_000),
    "extension's quoted pairs": (read_chunks, b'1;a="', b"\\a", b"\r\n", 4_000),
    "extension's open quotes": (read_chunks, b"1", b';a="\\"', b"\r\n", 4_000),
    "blanks after a chunk's size": (read_chunks, b"1", b" ", b"\r\n", 4_000),
    "extensions of many chunks": (read_chunks, b"", b"1;a=b\r\na\r\n", b"0\r\n\r\n", 24_000),
    "trailers": (read_chunks, b"0\r\n", b"X: yyyy\r\n", b"\r\n", 16_000),
    "trailers that end badly": (read_chunks, b"0\r\n", b"a:\r\n", b"b\r\n\r\n", 16_000),
    "trailer name": (read_chunks, b"0\r\n", b"a", b"\r\n\r\n", 16_000),
    "trailer blanks": (read_chunks, b"0\r\nX:", b" ", b"\x00\r\n\r\n", 16_000),
}
FACTOR = 8


@pytest.mark.parametrize("piece_bytes", [16, 0], ids=["in pieces", "whole"])
@pytest.mark.parametrize("flood", FLOODS)
def test_twice_the_input_takes_at_most_about_twice_the_time(flood: str, piece_bytes: int) -> None:
    """Three doublings at once: linear is eight times the time, quadratic 64 times; half-way between the two fails.

    The best of several runs counts, and the shorter runs are repeated until a clock can tell them from nothing.
    """
    read, start, unit, end, size = FLOODS[flood]

    def seconds(size: int, repetitions: int) -> float:
        data = start + unit * (size // len(unit)) + end
        pieces = [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)] if piece_bytes else [data]
        began = time.process_time()
        for _ in range(repetitions):
            read(pieces)
        return (time.process_time() - began) / repetitions

    short = long = float("inf")
    for attempt in range(40):
        short = min(short, seconds(size // FACTOR, 8))
        long = min(long, seconds(size, 1))
        if attempt >= 2 and long < 20 * short + 0.0002:
            return
    raise AssertionError(f"{long * 1e6:.0f} us for {size} bytes, {short * 1e6:.0f} us for an eighth of them")
