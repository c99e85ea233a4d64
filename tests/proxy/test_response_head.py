"""Response heads: as strict as requests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollbridge.proxy.response_head import BadResponse, ResponseHead, find_response_head

HEAD = b"HTTP/1.1 200 Very OK\r\nContent-Length: 5\r\nX-A: b \r\nConnection: keep-alive\r\n\r\n"


def parse(data: bytes) -> ResponseHead:
    found = find_response_head(data, 0, 65536)
    assert found is not None
    assert found[1] == len(data)
    return found[0]


def read_in_pieces(data: bytes, cuts: list[int]) -> object:
    """The outcome of an incremental reading: head and end, "bad", or None."""
    scanned = 0
    for cut in [*sorted(cuts), len(data)]:
        try:
            found = find_response_head(data[:cut], scanned, 65536)
        except BadResponse:
            return "bad"
        if found is not None:
            return found
        scanned = cut
    return None


def test_a_head_is_understood_however_it_arrives() -> None:
    whole = read_in_pieces(HEAD + b"hello", [])
    assert isinstance(whole, tuple)
    response, end = whole
    assert (response.status, response.status_line, response.content_length) == (200, b"200 Very OK", 5)
    assert response.fields == [(b"X-A", b"b")]
    assert end == len(HEAD)
    for cut in range(len(HEAD)):
        assert read_in_pieces(HEAD + b"hello", [cut]) == whole


def test_a_missing_reason_is_forgiven() -> None:
    assert parse(b"HTTP/1.1 404\r\n\r\n").status_line == b"404 "
    assert parse(b"HTTP/1.1 404 \r\n\r\n").status_line == b"404 "


def test_keep_alive_follows_version_and_connection() -> None:
    assert parse(b"HTTP/1.1 200 OK\r\n\r\n").keep_alive
    assert not parse(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").keep_alive
    assert not parse(b"HTTP/1.0 200 OK\r\n\r\n").keep_alive
    assert parse(b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n").keep_alive


def test_hop_by_hop_fields_are_taken_out() -> None:
    response = parse(
        b"HTTP/1.1 200 OK\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nClose: 1\r\nX: y\r\n"
        b"Upgrade: h2\r\n\r\n"
    )
    assert response.fields == [(b"X", b"y")]
    assert response.upgrade == b"h2"


BAD = [
    b"HTTP/1.1 200 OK\nX: y\n\n",
    b"HTTP/1.1 200 OK\r\nX: a\nb\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\x00\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 099 OK\r\n\r\n",
    b"HTTP/1.1  200 OK\r\n\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/1.2 200 OK\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
    b"hello\r\n\r\n",
    b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
]


@pytest.mark.parametrize("data", BAD)
def test_bad_head_is_refused_however_it_arrives(data: bytes) -> None:
    assert read_in_pieces(data, []) == "bad"
    for cut in range(1, len(data)):
        assert read_in_pieces(data, [cut]) == "bad"


def test_limit_is_exact() -> None:
    assert find_response_head(HEAD, 0, len(HEAD)) is not None
    with pytest.raises(BadResponse):
        find_response_head(HEAD, 0, len(HEAD) - 1)
    with pytest.raises(BadResponse):
        find_response_head(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1000, 0, 1000)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.lists(st.integers(0, 100), max_size=4))
def test_any_bytes_give_the_same_outcome_in_any_packets(junk: bytes, cuts: list[int]) -> None:
    for data in (junk, b"HTTP/1.1 200 OK\r\nX: " + junk + b"\r\n\r\n", b"HTTP/1.1 200" + junk + b"\r\n\r\n"):
        assert read_in_pieces(data, [cut for cut in cuts if cut < len(data)]) == read_in_pieces(data, [])
