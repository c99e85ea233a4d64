"""What is remembered of heads: on second sight, within bounds, and not for long."""

from __future__ import annotations

import tracemalloc

import pytest

from rollbridge.proxy.head import HeadReader, KnownFields
from rollbridge.proxy.remembered import MAX_BYTES, MAX_ENTRIES, MAX_KEY_BYTES, Remembered
from rollbridge.proxy.request_fields import BadRequest
from rollbridge.proxy.response_head import KnownResponses, find_response_head


def known_of(*keys: bytes, size_bytes: int = 100) -> Remembered[bytes]:
    """One that has met each of ``keys`` often enough."""
    known = Remembered[bytes](lambda: None)
    for key in keys:
        learn_twice(known, key, size_bytes)
    return known


def learn_twice(known: Remembered[bytes], key: bytes, size_bytes: int = 100) -> None:
    for _ in range(2):
        known.learn(key, b"value of " + key, size_bytes)


def test_a_value_is_kept_when_its_bytes_come_for_the_second_time() -> None:
    told: list[None] = []
    known = Remembered[int](lambda: told.append(None))
    known.learn(b"key", 1, 100)
    assert (known.recall(b"key"), len(known), len(told)) == (None, 0, 0)
    known.learn(b"key", 1, 100)
    assert (known.recall(b"key"), len(known), len(told)) == (1, 1, 1)
    assert known.recall(b"kez") is None


def test_what_is_not_asked_for_is_forgotten_at_the_second_ageing() -> None:
    known = known_of(b"used", b"unused")
    assert known.age()
    assert known.recall(b"used") == b"value of used"
    assert known.age()
    assert known.recall(b"unused") is None
    assert known.recall(b"used") == b"value of used"
    assert known.age()
    assert not known.age()
    assert len(known) == 0


def test_ever_new_bytes_push_nothing_out() -> None:
    known = known_of(b"a", b"b")
    for number in range(10_000):
        known.learn(b"%d" % number, b"", 100)
    assert len(known) == 2
    assert known.recall(b"a") == b"value of a"


def test_what_is_in_use_outlives_any_number_of_others() -> None:
    known = known_of(b"used")
    for number in range(5 * MAX_ENTRIES):
        learn_twice(known, b"%d" % number)
        assert known.recall(b"used") == b"value of used"
    assert len(known) <= 2 * MAX_ENTRIES


def test_entries_and_bytes_are_bounded() -> None:
    known = Remembered[bytes](lambda: None)
    for number in range(5 * MAX_ENTRIES):
        learn_twice(known, b"%d" % number, 1)
    assert MAX_ENTRIES <= len(known) <= 2 * MAX_ENTRIES
    for number in range(100):
        learn_twice(known, b"large %d" % number, MAX_BYTES // 4)
    assert len(known) <= 8
    size = len(known)
    learn_twice(known, b"k" * (MAX_KEY_BYTES + 1))
    assert len(known) == size


def test_heads_made_to_fill_it_take_about_the_memory_that_is_allowed() -> None:
    """The dearest there are: as many of the shortest fields as a head may have."""
    requests, responses = KnownFields(lambda: None), KnownResponses(lambda: None)
    reader = HeadReader(65536, requests)
    tracemalloc.start()
    try:
        for number in range(1000):
            fields = b"X: %d\r\n" % number + b"a:b\r\n" * 400 + b"\r\n"
            for _ in range(2):
                reader.feed(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields)
                find_response_head(b"HTTP/1.1 200 OK\r\n" + fields, 0, 65536, responses)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(requests) > 5
    assert len(responses) > 5
    assert taken < 2 * 2 * MAX_BYTES * 1.25


def test_a_head_larger_than_a_reader_allows_is_refused_though_it_is_known() -> None:
    known = KnownFields(lambda: None)
    data = b"GET / HTTP/1.1\r\nHost: a\r\nX: yyyyyyyyyyy\r\n\r\n"
    for _ in range(3):
        HeadReader(len(data), known).feed(data)
    assert len(known) == 1
    with pytest.raises(BadRequest) as refusal:
        HeadReader(len(data) - 1, known).feed(data)
    assert refusal.value.status == 431


def test_http_1_0_is_not_taken_for_http_1_1_with_the_same_fields() -> None:
    known = KnownFields(lambda: None)
    fields = b"Host: a\r\nConnection: upgrade\r\nUpgrade: x\r\nExpect: 100-continue\r\n\r\n"
    for _ in range(3):
        found = HeadReader(1000, known).feed(b"POST / HTTP/1.1\r\n" + fields)
        assert found is not None
        assert (found[0].upgrade, found[0].keep_alive, found[0].expects_continue) == (b"x", True, True)
        found = HeadReader(1000, known).feed(b"POST / HTTP/1.0\r\n" + fields)
        assert found is not None
        assert (found[0].upgrade, found[0].keep_alive, found[0].expects_continue) == (None, False, False)
