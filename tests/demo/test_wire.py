from __future__ import annotations

import asyncio

import pytest

from rollbridge.demo.wire import BadMessage, Head, Truncated, encode_chunk, parse_head, read_body, read_head

CHUNKED = Head("HTTP/1.1 200 OK", {"transfer-encoding": "chunked"})


def read(head: Head, data: bytes, *, is_response: bool = True) -> bytes:
    async def run() -> bytes:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return b"".join([piece async for piece in read_body(reader, head, is_response=is_response)])

    return asyncio.run(run())


def read_one_head(data: bytes) -> Head | None:
    async def run() -> Head | None:
        reader = asyncio.StreamReader(limit=1024)
        reader.feed_data(data)
        reader.feed_eof()
        return await read_head(reader)

    return asyncio.run(run())


def test_head_has_lowercase_names_and_joined_values() -> None:
    head = parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nx:2 \r\n\r\n")
    assert head == Head("GET / HTTP/1.1", {"host": "a", "x": "1, 2"})


@pytest.mark.parametrize("line", [b"no colon", b": no name", b"name : 1", b" folded: 1"])
def test_head_line_that_is_no_field_is_refused(line: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_head(b"GET / HTTP/1.1\r\n" + line + b"\r\n\r\n")


def test_end_before_a_head_is_no_error_and_inside_one_is() -> None:
    assert read_one_head(b"") is None
    with pytest.raises(Truncated):
        read_one_head(b"GET / HT")
    with pytest.raises(BadMessage):
        read_one_head(b"GET /" + b"x" * 2000 + b"\r\n\r\n")


def test_tokens_are_found_in_a_list_whatever_their_case() -> None:
    head = Head("", {"connection": "Keep-Alive, Upgrade"})
    assert head.has_token("connection", "upgrade")
    assert not head.has_token("connection", "close")


@pytest.mark.parametrize("size", [0, 1, 2, 70000])
def test_body_of_known_length_is_read_and_nothing_after_it(size: int) -> None:
    assert read(Head("", {"content-length": str(size)}), b"x" * size + b"next") == b"x" * size


def test_body_without_length_ends_with_the_connection_of_a_response_only() -> None:
    assert read(Head("", {}), b"rest") == b"rest"
    assert read(Head("", {}), b"next", is_response=False) == b""


def test_chunks_are_put_together_and_trailers_dropped() -> None:
    assert read(CHUNKED, encode_chunk(b"ab") + b"1;x=y\r\nc\r\n0\r\nTrailer: 1\r\n\r\n") == b"abc"


def test_encoded_end_of_chunks_is_the_whole_end() -> None:
    assert encode_chunk(b"") == b"0\r\n\r\n"


@pytest.mark.parametrize("data", [b"", b"5\r\nab", b"2\r\nab\r\n", b"2\r\nab\r\n0\r\n", b"2"])
def test_cut_chunks_are_truncated(data: bytes) -> None:
    with pytest.raises(Truncated):
        read(CHUNKED, data)


def test_cut_body_says_how_much_came() -> None:
    with pytest.raises(Truncated, match="2 of 5"):
        read(Head("", {"content-length": "5"}), b"ab")


@pytest.mark.parametrize("data", [b"x\r\n", b"-1\r\n", b"1_0\r\n", b"\r\n", b"1\r\nabc\r\n"])
def test_malformed_chunks_are_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        read(CHUNKED, data)
