"""What holds for every message: any packets give the same, others read the same, forwarding changes no meaning.

The targets of the fuzzer (tests/fuzz/targets.py) assert it; here they get messages made to be nearly right.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from rollbridge.proxy.chunked import BadFraming, ChunkedReader
from rollbridge.proxy.forward import request_head_bytes
from rollbridge.proxy.framing import response_framing
from rollbridge.proxy.head import HeadReader, KnownFields
from rollbridge.proxy.request_fields import BadRequest
from rollbridge.proxy.response_head import BadResponse, KnownResponses, find_response_head
from tests.fuzz import targets

MOSTLY = settings(max_examples=400, deadline=None)


@dataclass(frozen=True)
class Part:
    """What may stand at one place of a message: what is right there, and what is not, or is unusual."""

    usual: list[bytes]
    odd: list[bytes]


METHOD = Part(
    [b"GET ", b"POST ", b"HEAD "], [b"CONNECT ", b"OPTIONS ", b"get ", b"M-!#$%&'*+.^_`|~9 ", b"G(T ", b" ", b"\xc4 "]
)
TARGET = Part(
    [b"/", b"/x?y=1", b"http://a", b"http://a:80/x", b"HTTPS://A?q", b"//a/b", b"/%00", b"/{|}"],
    [
        b"*",
        b"/#x",
        b"x",
        b"http://b/",
        b"http://u@a/",
        b"ftp://a/",
        b"a:80",
        b"http://",
        b"/\xff",
        b"/a b",
        b"",
        b"/\x7f",
    ],
)
VERSION = Part(
    [b" HTTP/1.1"] * 3 + [b" HTTP/1.0"],
    [b" HTTP/1.2", b" HTTP/2.0", b" http/1.1", b" HTTP/1.10", b" HTTP/11", b"  HTTP/1.1"],
)
END = Part([b"\r\n"], [b"\n", b"\r", b"\r\n ", b"\r\r\n", b"\x00\r\n", b"", b" \r\n", b"\r\n\r\n"])
COLON = Part([b": ", b":", b":\t "], [b" :", b"", b"::", b"\t:"])
NAME = Part(
    [b"X", b"Connection", b"Upgrade", b"TE", b"Via", b"X_Y", b"Content_Length", b"Cookie", b"X-Forwarded-For"],
    [b"Host", b"Content-Length", b"Transfer-Encoding", b"Expect", b"", b"X Y", b" X", b"X\x00", b"\xc4"],
)
VALUE = Part(
    [
        b"",
        b"a",
        b"a b\t c ",
        b"close",
        b"keep-alive, X",
        b"x ,Cookie",
        b"upgrade",
        b"trailers",
        b"100-continue",
        b"\xff",
    ],
    [b"5", b"chunked", b"a\x00", b"a\rb", b"a\nb", b"a\x0bb", b"\x7f", b"a\r\n b"],
)
FRAMING = Part(
    [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"content-length:05\r\n"],
    [
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding:\r\n",
    ],
)
HOST = Part([b"Host: a\r\n", b"host:A:80\r\n"], [b"", b"Host: a\r\nHost: a\r\n", b"Host: u@a\r\n", b"Host: a, b\r\n"])
CHUNK = Part(
    [b"5\r\nhello\r\n", b"00A;a=b\r\n0123456789\r\n", b'2 ; a = "b;\\""\r\n\r\n\r\n', b"5\r\n0\r\n\r\n\r\n"],
    [
        *(
            b"%b\r\nhello\r\n" % size
            for size in (b"", b"-5", b"0x5", b" 5", b"5 ", b"0_5", b"4", b"6", b"f" * 15, b"f" * 16)
        ),
        *(
            b"5%b\r\nhello\r\n" % rest
            for rest in (b";", b";a=", b';a="', b"; a b", b";a\x00", b";a\n", b"\r", b";" + b"a" * 99)
        ),
        *(b"5\r\nhello%b" % end for end in (b"", b"\n", b"\r", b"!\r\n", b"\n\r", b"XX", b"\r\n\r\n")),
        *(b"5\nhello\r\n", b"5\rhello\r\n"),
    ],
)
LAST_CHUNK = Part([b"0\r\n", b"000;x\r\n"], [b"", b"0 \r\n", b"0\n", b"0\r", b"0;\r\n", b"-0\r\n"])
BODY = Part([b"hello"] * 3 + [b"5\r\nhello\r\n0\r\n\r\n"], [b"", b"hell", b"hello\r\n", b"hello!"])
STATUS = Part(
    [b" 200", b" 204", b" 304", b" 404", b" 999"], [b" 103", b" 101", b" 426", b" 20", b" 2000", b" 099", b" 2OO", b" "]
)
REASON = Part([b" OK", b" ", b" Very\tOK \xff"], [b"", b"OK", b" \x00", b"\tOK", b"\x0b"])

SMALL = st.integers(0, 60)
Draw = Callable[[st.SearchStrategy[Any]], Any]
FIELD = [NAME, COLON, VALUE, END]


def draw_parts(draw: Draw, parts: list[Part]) -> bytes:
    """One thing for each part, and at most one of them odd: with everything else right, that one decides."""
    odd = draw(st.integers(-1, len(parts) - 1))
    return b"".join(draw(st.sampled_from(part.odd if at == odd else part.usual)) for at, part in enumerate(parts))


def some(draw: Draw, part: list[Part], most: int) -> list[Part]:
    times: int = draw(st.integers(0, most))
    return part * times


def draw_chunks(draw: Draw) -> list[Part]:
    return [*some(draw, [CHUNK], 3), LAST_CHUNK, *some(draw, FIELD, 2), END]


@st.composite
def chunked_bodies(draw: Draw) -> bytes:
    return draw_parts(draw, draw_chunks(draw))


@st.composite
def requests(draw: Draw) -> bytes:
    body = draw_chunks(draw) if draw(st.booleans()) else [BODY]
    return draw_parts(draw, [METHOD, TARGET, VERSION, END, HOST, FRAMING, *some(draw, FIELD, 4), END, *body])


@st.composite
def responses(draw: Draw) -> bytes:
    body = draw_chunks(draw) if draw(st.booleans()) else [BODY]
    version = Part([one.strip() for one in VERSION.usual], [one.strip() for one in VERSION.odd])
    return draw_parts(draw, [version, STATUS, REASON, END, FRAMING, *some(draw, FIELD, 4), END, *body])


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
@given(st.lists(st.tuples(requests(), st.lists(SMALL, max_size=5)), min_size=1, max_size=4), st.integers(0, 60))
def test_request_heads_are_read_alike_whatever_is_remembered(sent: list[tuple[bytes, list[int]]], ageing: int) -> None:
    """Several clients by turns, all of whose heads go through one memory: nobody gets anything of another's."""
    known = KnownFields(lambda: None)
    for turn in range(4):
        for number, (data, cuts) in enumerate(sent):
            fresh = targets.feed_heads([data])
            found = targets.feed_heads(cut(data, cuts), known)
            assert found == fresh
            if isinstance(found, tuple) and isinstance(fresh, tuple):
                for client in (targets.STRANGER, targets.FRIEND):
                    assert request_head_bytes(found[0], client) == request_head_bytes(fresh[0], client)
            if ageing == len(sent) * turn + number:
                known.age()
    event(f"{len(known)} remembered")


@MOSTLY
@given(st.lists(st.tuples(responses(), st.lists(SMALL, max_size=5)), min_size=1, max_size=4), st.integers(0, 60))
def test_responses_are_read_and_sent_alike_whatever_is_remembered(
    sent: list[tuple[bytes, list[int]]], ageing: int
) -> None:
    known = KnownResponses(lambda: None)
    for turn in range(4):
        for number, (data, cuts) in enumerate(sent):
            fresh = targets.feed_response([data])
            found = targets.feed_response(cut(data, cuts), known)
            assert found == fresh
            if isinstance(found, tuple) and isinstance(fresh, tuple):
                framing = response_framing(fresh[0], turn % 2 == 1)
                for is_http11 in (True, False):
                    targets.check_sent_alike(found[0], fresh[0], framing, is_http11)
            if ageing == len(sent) * turn + number:
                known.age()
    event(f"{len(known)} remembered")


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


WHOLE = {
    "request_heads": [METHOD, TARGET, VERSION, END, HOST, FRAMING, *FIELD, END, BODY],
    "request_streams": [METHOD, TARGET, VERSION, END, HOST, FRAMING, *FIELD, END, CHUNK, LAST_CHUNK, END],
    "chunked_bodies": [CHUNK, CHUNK, LAST_CHUNK, *FIELD, END],
    "response_heads": [Part([b"HTTP/1.1"], [b"HTTP/1.0"]), STATUS, REASON, END, FRAMING, *FIELD, END, BODY],
}


@pytest.mark.parametrize("target", WHOLE)
def test_each_oddity_in_an_otherwise_right_message_is_read_alike(target: str) -> None:
    """In every message that the usual parts allow at their places beside it, as far as they go round."""
    parts = WHOLE[target]
    for at, part in enumerate(parts):
        for odd in part.odd:
            for turn in range(4):
                usual = [one.usual[(turn + number) % len(one.usual)] for number, one in enumerate(parts)]
                targets.TARGETS[target](b"".join([*usual[:at], odd, *usual[at + 1 :]]))


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
