"""The chunked coding: decoded the same in any packets, encoded so that others read the same."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollbridge.proxy.chunked import (
    MAX_CHUNK_LINE_BYTES,
    MAX_EXTENSION_BYTES,
    MAX_TRAILER_BYTES,
    BadFraming,
    ChunkedReader,
    encode_chunk,
    encode_end,
)

BODY = b'5\r\nhello\r\n00a;ext=1; b="x;\\"y"\r\n0123456789\r\n0\r\nX-Sum: 1 \r\nContent-Length: 9\r\nY:\r\n\r\n'


def read_in_pieces(data: bytes, cuts: list[int]) -> tuple[bytes, object, bytes] | str | None:
    """Payload, trailers and rest; "bad"; or None when the body does not end."""
    reader = ChunkedReader()
    payload = b""
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        try:
            payload += reader.feed(data[at:cut])
        except BadFraming:
            return "bad"
        at = cut
        if reader.is_done:
            return payload, reader.trailers, reader.rest + data[at:]
    return None


def test_a_body_is_the_same_however_it_arrives() -> None:
    expected = (b"hello0123456789", [(b"X-Sum", b"1"), (b"Y", b"")], b"next")
    data = BODY + b"next"
    assert read_in_pieces(data, []) == expected
    for cut in range(len(data)):
        assert read_in_pieces(data, [cut]) == expected
    assert read_in_pieces(data, list(range(len(data)))) == expected


def test_trailers_that_may_not_come_late_are_dropped() -> None:
    data = b"0\r\n" + b"".join(
        name + b": x\r\n"
        for name in (
            b"Host",
            b"Transfer-Encoding",
            b"Set-Cookie",
            b"X-Forwarded-For",
            b"If-Match",
            b"Proxy-Foo",
            b"X_Forwarded_For",
            b"content_length",
            b"Fine",
        )
    )
    outcome = read_in_pieces(data + b"\r\n", [])
    assert outcome == (b"", [(b"Fine", b"x")], b"")


BAD = [
    b"g\r\n",
    b"\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\r\nhello!\r\n0\r\n\r\n",
    b"5\r\nhellox\n0\r\n\r\n",
    b"5\r\nhell\r\n0\r\n\r\n",
    b"5\rhello\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    b"0000000000000000\r\n\r\n",
    b"5;\r\nhello\r\n0\r\n\r\n",
    b"5;a=\r\nhello\r\n0\r\n\r\n",
    b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    b'5;a="b\r\nhello\r\n0\r\n\r\n',
    b"5;a\x00\r\nhello\r\n0\r\n\r\n",
    b"5_0\r\n",
    b"0\r\nX : y\r\n\r\n",
    b"0\r\n X: y\r\n\r\n",
    b"0\r\nX: y\r\n z\r\n\r\n",
    b"0\r\nX: y\n\r\n\r\n",
    b"0\r\nGET / HTTP/1.1\r\n\r\n",
    b"0\r\nX: \x00\r\n\r\n",
    b"0;" + b"a" * MAX_CHUNK_LINE_BYTES + b"\r\n\r\n",
    b"0\r\nX: " + b"a" * MAX_TRAILER_BYTES + b"\r\n\r\n",
    b"1;a\r\nx\r\n" * (MAX_EXTENSION_BYTES // 2 + 1) + b"0\r\n\r\n",
]


@pytest.mark.parametrize("data", BAD, ids=lambda data: repr(data[:30]))
def test_malformed_body_is_refused_however_it_arrives(data: bytes) -> None:
    assert read_in_pieces(data, []) == "bad"
    for cut in range(1, min(len(data), 40)):
        assert read_in_pieces(data, [cut]) == "bad"


def test_what_can_never_become_a_chunk_is_refused_without_waiting_for_the_line_to_end() -> None:
    for start in (b"x", b"5x", b"5\n", b"5;\x00", b"f" * 16, b"5\r\r"):
        assert read_in_pieces(start, list(range(len(start)))) == "bad"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=20), max_size=6),
    st.lists(st.integers(0, 150), max_size=6),
    st.binary(max_size=5),
)
def test_encode_then_decode_is_stable_in_any_packets(pieces: list[bytes], cuts: list[int], rest: bytes) -> None:
    trailers = [(b"X", b"y")]
    data = b"".join(encode_chunk(piece) for piece in pieces) + encode_end(trailers) + rest
    assert read_in_pieces(data, [cut for cut in cuts if cut < len(data)]) == (b"".join(pieces), trailers, rest)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [b"0", b"5", b"a", b"\r\n", b"\r", b"\n", b";", b"x=y", b" ", b"hello", b"X: y", b"\x00", b'"']
        ),
        max_size=14,
    ),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_any_bytes_give_the_same_outcome_in_any_packets_and_h11_agrees(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    outcome = read_in_pieces(data, [])
    assert read_in_pieces(data, [cut for cut in cuts if cut < len(data)]) == outcome
    if not isinstance(outcome, tuple):
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    connection.next_event()
    payload = b""
    while isinstance(event := connection.next_event(), h11.Data):
        payload += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert payload == outcome[0]
