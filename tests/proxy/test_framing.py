"""Where bodies end, and what is said about it to the other side."""

from __future__ import annotations

import pytest

from rollbridge.proxy.chunked import BadFraming
from rollbridge.proxy.framing import (
    CloseReader,
    Framing,
    LengthReader,
    client_framing,
    request_relay,
    response_framing,
    response_relay,
)
from rollbridge.proxy.request_fields import CHUNKED
from rollbridge.proxy.response_head import ResponseHead, find_response_head


def response(data: bytes) -> ResponseHead:
    found = find_response_head(data, 0, 10_000)
    assert found is not None
    return found[0]


WITH_LENGTH = response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
WITH_CHUNKS = response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
WITH_NEITHER = response(b"HTTP/1.1 200 OK\r\n\r\n")


def test_response_framing_follows_rfc_9112_section_6_3() -> None:
    assert response_framing(WITH_LENGTH, False) is Framing.LENGTH
    assert response_framing(WITH_CHUNKS, False) is Framing.CHUNKED
    assert response_framing(WITH_NEITHER, False) is Framing.UNTIL_CLOSE
    assert response_framing(WITH_LENGTH, True) is Framing.NONE
    for status in (204, 304):
        assert response_framing(response(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status), False) is Framing.NONE


def test_client_framing_knows_that_http10_has_no_chunks() -> None:
    assert client_framing(Framing.CHUNKED, True) is Framing.CHUNKED
    assert client_framing(Framing.CHUNKED, False) is Framing.UNTIL_CLOSE
    assert client_framing(Framing.UNTIL_CLOSE, True) is Framing.CHUNKED
    assert client_framing(Framing.UNTIL_CLOSE, False) is Framing.UNTIL_CLOSE
    for framing in (Framing.LENGTH, Framing.NONE):
        assert client_framing(framing, True) is client_framing(framing, False) is framing


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_length_reader_takes_exactly_its_bytes(length: int) -> None:
    data = b"hello world"
    for cut in range(len(data)):
        reader = LengthReader(length)
        payload = b""
        rest = b""
        for piece in (data[:cut], data[cut:]):
            if reader.is_done:
                rest += piece
            else:
                payload += reader.feed(piece)
                rest += reader.rest
        assert (payload, rest, reader.is_done) == (data[:length], data[length:], True)


def test_a_body_that_ends_early_is_known_to_be_cut_short() -> None:
    for relay in (
        response_relay(WITH_LENGTH, Framing.LENGTH, Framing.LENGTH),
        response_relay(WITH_CHUNKS, Framing.CHUNKED, Framing.CHUNKED),
        response_relay(WITH_CHUNKS, Framing.CHUNKED, Framing.UNTIL_CLOSE),
    ):
        with pytest.raises(BadFraming):
            relay.feed_end()


def test_close_delimited_body_is_chunked_for_http11_and_plain_for_http10() -> None:
    chunked = response_relay(WITH_NEITHER, Framing.UNTIL_CLOSE, Framing.CHUNKED)
    assert chunked.feed(b"abc") == b"3\r\nabc\r\n"
    assert chunked.feed(b"") == b""
    assert chunked.feed_end() == b"0\r\n\r\n"
    plain = response_relay(WITH_NEITHER, Framing.UNTIL_CLOSE, Framing.UNTIL_CLOSE)
    assert (plain.feed(b"abc"), plain.feed_end()) == (b"abc", b"")
    assert isinstance(plain.reader, CloseReader)


def test_chunks_are_serialised_anew_without_extensions() -> None:
    relay = request_relay(CHUNKED)
    assert relay.feed(b"0003;a=b\r\nabc\r\n2\r\nde") == b"5\r\nabcde\r\n"
    assert relay.feed(b"\r\n0\r\nX: y\r\n\r\nrest") == b"0\r\nX: y\r\n\r\n"
    assert relay.reader.is_done
    assert relay.reader.rest == b"rest"


def test_chunks_become_plain_bytes_for_http10() -> None:
    relay = response_relay(WITH_CHUNKS, Framing.CHUNKED, Framing.UNTIL_CLOSE)
    assert relay.feed(b"3\r\nabc\r\n0\r\nX: y\r\n\r\n") == b"abc"
    assert relay.reader.is_done
