"""The link's language: every message survives the trip, nothing else gets through."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbridge.proxy.messages import (
    Ack,
    BadMessage,
    Counts,
    Hello,
    Message,
    ReleaseCounts,
    Report,
    Route,
    Settings,
    Shutdown,
    Target,
    Upstream,
    Welcome,
    decode,
    encode,
)

COUNTS = Counts({"r1#1": ReleaseCounts(2, 1)}, clients=5, requests_total=99, held=3)
MESSAGES: list[Message] = [
    Hello(1, True),
    Settings(trusted_proxies=("10.0.0.0/8",), forwarded_port=443, hold_timeout_seconds=0, access_log="/l"),
    Route(3, "r1#1", "", (Target("r1#1", (Upstream("127.0.0.1", 80), Upstream("::1", 81, False)), 3),)),
    Route(4, None, "stopped", (), True),
    Shutdown(1.5),
    Welcome(1, 77, 0, 4, COUNTS, "0.1.0"),
    Ack(9),
    COUNTS,
    Report("upstream unreachable", {"port": 1, "nested": {"a": [1, None]}}),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_trip(message: Message) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_fields_of_a_newer_peer_are_ignored(message: Message) -> None:
    shape = json.loads(encode(message))
    shape["from_the_future"] = 1
    assert decode(json.dumps(shape).encode()) == message


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"1",
        b"null",
        b"{}",
        b'{"type":"none such"}',
        b'{"type":["route"]}',
        b'{"type":"ack"}',
        b'{"type":"ack","generation":-1}',
        b'{"type":"ack","generation":true}',
        b'{"type":"ack","generation":1.5}',
        b'{"type":"hello","protocol":"1"}',
        b'{"type":"shutdown","drain_seconds":NaN}',
        b'{"type":"shutdown","drain_seconds":Infinity}',
        b'{"type":"route","generation":1,"active":"x","targets":[]}',
        b'{"type":"route","generation":1,"active":null,"targets":[1]}',
        b'{"type":"route","generation":1,"active":null,"targets":[{"release_key":"a","upstreams":[{"host":"h","port":0}]}]}',
        b'{"type":"route","generation":1,"active":null,"targets":[{"release_key":"a","upstreams":[{"host":"","port":1}]}]}',
        b'{"type":"route","generation":1,"active":null,"targets":[{"release_key":"a","upstreams":[{"host":"a\\u0000","port":1}]}]}',
        b'{"type":"route","generation":1,"active":null,"targets":[{"release_key":"a","upstreams":[{"host":"\\ud800","port":1}]}]}',
        b'{"type":"settings","trusted_proxies":[1]}',
        b'{"type":"counts","releases":{"a":{"http":1}}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(line)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_bad_message(line: bytes) -> None:
    for text in (line, b'{"type":"route","targets":' + line + b"}"):
        try:
            decode(text)
        except BadMessage:
            continue
