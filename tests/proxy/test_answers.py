"""The proxy's own answers are well-formed, short, and readable by a person."""

from __future__ import annotations

import pytest

from rollbridge.proxy.answers import REASONS, answer_bytes
from rollbridge.proxy.response_head import find_response_head

DATE = b"Sat, 21 Nov 2026 02:14:12 GMT"


@pytest.mark.parametrize("status", REASONS)
def test_every_answer_is_a_response_of_its_length(status: int) -> None:
    data = answer_bytes(status, "something is wrong", DATE, retry_after_seconds=1)
    found = find_response_head(data, 0, 10_000)
    assert found is not None
    head, end = found
    assert head.status == status
    assert head.content_length == len(data) - end
    assert not head.keep_alive
    assert (b"Date", DATE) in head.fields
    assert (b"Retry-After", b"1") in head.fields
    assert b"something is wrong." in data[end:]


def test_a_head_request_gets_the_same_head_and_no_body() -> None:
    whole = answer_bytes(502, "x", DATE)
    assert answer_bytes(502, "x", DATE, is_head=True) == whole[: whole.index(b"\r\n\r\n") + 4]


def test_connection_says_what_happens_next() -> None:
    assert b"Connection: close" in answer_bytes(400, "x", DATE)
    assert b"Connection" not in answer_bytes(502, "x", DATE, will_close=False)
    assert b"Connection: keep-alive" in answer_bytes(502, "x", DATE, will_close=False, is_http11=False)
