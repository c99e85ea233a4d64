"""Requests and answers through a real worker: framing, order, early answers, and what each side does to the other."""

from __future__ import annotations

import functools
import threading
import zlib
from pathlib import Path

import pytest

from tests.proxy.rig import Peer, Rig

POST = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


def test_a_request_goes_through_and_both_connections_are_kept(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client()
    client.get(b"/one?x=1", b"X-Thing: 1")
    upstream = app.accept()
    head = upstream.read_head()
    assert head.startswith(b"GET /one?x=1 HTTP/1.1\r\nHost: a\r\nX-Thing: 1\r\n")
    assert b"X-Forwarded-For: 127.0.0.1\r\n" in head
    assert b"X-Forwarded-Port: %d\r\n" % rig.port in head
    upstream.respond(b"first", b"X-Mine: yes")
    status, head, body = client.read_response()
    assert (status, body) == (200, b"first")
    assert b"X-Mine: yes" in head
    client.get(b"/two")
    assert upstream.read_head().startswith(b"GET /two ")
    upstream.respond(b"second")
    assert client.read_response()[2] == b"second"
    assert not app.has_connection()


def test_any_split_of_request_and_response_gives_the_same(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    request = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\nT: 1\r\n\r\n"
    for cut in range(1, max(len(request), len(response)), 3):
        client = rig.client()
        client.send(request[:cut])
        client.send(request[cut:])
        upstream = app.accept()
        upstream.read_head()
        assert upstream.read_chunked() == (b"abc", [])
        upstream.send(response[:cut])
        upstream.send(response[cut:])
        client.read_head()
        assert client.read_chunked() == (b"wxyz", [(b"T", b"1")])
        client.close()
        upstream.close()


def test_byte_by_byte_both_ways(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client()
    for byte in POST + b"hello":
        client.send(bytes([byte]))
    upstream = app.accept()
    assert b"Content-Length: 5" in upstream.read_head()
    assert upstream.read(5) == b"hello"
    for byte in b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc":
        upstream.send(bytes([byte]))
    assert client.read_response()[0] == 103
    assert client.read_response()[2] == b"abc"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_chunked_response_is_rechunked_or_ended_by_closing(rig: Rig, version: bytes) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(b"GET / HTTP/%b\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" % version)
    upstream = app.accept()
    upstream.read_head()
    upstream.send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n2\r\nde\r\n0\r\nSum: 1\r\nHost: no\r\n\r\n"
    )
    head = client.read_head()
    if version == b"1.1":
        assert b"Transfer-Encoding: chunked" in head
        assert client.read_chunked() == (b"abcde", [(b"Sum", b"1")])
    else:
        assert b"Transfer-Encoding" not in head
        assert b"Connection: close" in head
        assert client.read_to_end() == b"abcde"


def test_http10_client_is_kept_alive_when_it_asks_and_the_length_is_known(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client()
    upstream = None
    for _ in range(2):
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        upstream = upstream or app.accept()
        assert b"Host: 127.0.0.1:%d\r\n" % rig.port in upstream.read_head()
        upstream.respond(b"abc")
        assert b"Connection: keep-alive" in client.read_response()[1]
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert upstream is not None
    upstream.read_head()
    upstream.respond(b"abc")
    assert client.read_response()[2] == b"abc"
    assert client.is_closed()


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_close_delimited_response_from_an_http10_application(rig: Rig, version: bytes) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version)
    upstream = app.accept()
    upstream.read_head()
    upstream.send(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nabc")
    upstream.send(b"def")
    upstream.close()
    head = client.read_head()
    if version == b"1.1":
        assert client.read_chunked()[0] == b"abcdef"
        assert b"Connection: close" not in head
        client.get()
        upstream = app.accept()
        upstream.read_head()
        upstream.respond(b"again")
        assert client.read_response()[2] == b"again"
    else:
        assert client.read_to_end() == b"abcdef"


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_responses_without_a_body_end_at_once_and_keep_the_connection(rig: Rig, method: bytes, head: bytes) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream = app.accept()
    upstream.read_head()
    upstream.send(head)
    answer = client.read_head()
    assert (b"Content-Length: 1000" in answer) == (b"Content-Length: 1000" in head)
    client.get(b"/next")
    assert upstream.read_head().startswith(b"GET /next ")
    upstream.respond(b"next")
    assert client.read_response()[2] == b"next"


def test_a_body_sent_for_head_poisons_the_connection_and_reaches_nobody(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream = app.accept()
    upstream.read_head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    client.read_head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    client.get(b"/next")
    fresh = app.accept()
    assert fresh.read_head().startswith(b"GET /next ")
    fresh.respond(b"good")
    assert client.read_response()[2] == b"good"
    assert upstream.is_closed()


@pytest.mark.parametrize("extra", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"])
@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
def test_bytes_after_a_response_poison_the_connection(rig: Rig, response: bytes, extra: bytes) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client()
    client.get()
    upstream = app.accept()
    upstream.read_head()
    upstream.send(response + extra)
    assert client.read_response()[2] == b"ok"
    assert upstream.is_closed()
    client.get()
    fresh = app.accept()
    fresh.read_head()
    fresh.respond(b"good")
    assert client.read_response()[2] == b"good"


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 960\r\n\r\n" + b"x" * 960,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3ad\r\n%b\r\n0\r\n\r\n" % (b"x" * 0x3AD),
        b"HTTP/1.1 200 OK\r\nContent-Length: 1959\r\n\r\n" + b"x" * 1959,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n795\r\n%b\r\n0\r\n\r\n" % (b"x" * 0x795),
    ],
)
def test_bytes_behind_a_response_that_ends_with_a_whole_read_reach_nobody(tmp_path: Path, response: bytes) -> None:
    """The next request is there already, and would take the connection before anybody looks at it again."""
    assert len(response) in (1000, 2000)
    before = "from rollbridge.proxy import exchange, stream; stream.READ_BYTES = exchange.READ_BYTES = 1000"
    with Rig(tmp_path, before=before) as rig:
        app = rig.app()
        rig.serve(app)
        client = rig.client(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream = app.accept()
        upstream.read_head()
        upstream.send(response + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        assert client.read_response()[0] == 200
        fresh = app.accept()
        assert fresh.read_head().startswith(b"GET /2 ")
        fresh.respond(b"good")
        assert client.read_response()[2] == b"good"
        assert upstream.is_closed()


def test_unasked_bytes_on_an_idle_connection_close_it(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client()
    client.get()
    upstream = app.accept()
    upstream.read_head()
    upstream.respond()
    client.read_response()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert upstream.is_closed()
    client.get()
    fresh = app.accept()
    fresh.read_head()
    fresh.respond(b"good")
    assert client.read_response()[2] == b"good"


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"\x16\x03\x01",
    ],
    ids=lambda garbage: repr(garbage[:40]),
)
def test_a_bad_response_becomes_502_and_the_client_stays(rig: Rig, garbage: bytes) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client()
    client.get()
    upstream = app.accept()
    upstream.read_head()
    upstream.send(garbage)
    status, _, body = client.read_response()
    assert status == 502
    assert body.startswith(b"502 Bad Gateway: ")
    assert upstream.is_closed()
    client.get()
    fresh = app.accept()
    fresh.read_head()
    fresh.respond(b"good")
    assert client.read_response()[2] == b"good"


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("ending", ["FIN", "RST", "garbage"])
@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nabc",
    ],
)
def test_a_response_cut_short_never_looks_complete(rig: Rig, version: bytes, response: bytes, ending: str) -> None:
    if ending == "garbage" and b"chunked" not in response:
        return  # only chunks can be malformed
    if ending == "FIN" and b"HTTP/1.0" in response:
        return  # the end of a close-delimited body
    app = rig.app()
    rig.serve(app)
    client = rig.client(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version)
    upstream = app.accept()
    upstream.read_head()
    upstream.send(response)
    head = client.read_head()
    client.read_until(b"abc")
    if ending == "garbage":
        upstream.send(b"zz\r\n")
    elif ending == "RST":
        upstream.reset()
    else:
        upstream.close()
    if b"Content-Length: 10" in head:
        assert client.read_to_end() == b""
    elif b"Transfer-Encoding: chunked" in head:
        assert client.read_to_end() == b"\r\n"
    else:
        with pytest.raises(ConnectionResetError):
            client.read_to_end()


def test_pipelined_requests_are_answered_in_order(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    count = 50
    client = rig.client(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(count)))
    upstream = app.accept()
    for number in range(count):
        assert upstream.read_head().startswith(b"GET /%d " % number)
        assert upstream.is_quiet()
        upstream.respond(b"%d" % number)
        assert client.read_response()[2] == b"%d" % number


def test_what_follows_a_body_is_the_next_request(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    for body, framing in (
        (b"hello", b"Content-Length: 5"),
        (b"5\r\nhello\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
    ):
        client = rig.client(
            b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n" + body + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        upstream = app.accept()
        upstream.read_head()
        assert upstream.read(len(body)) == body
        assert upstream.is_quiet()
        upstream.respond(b"posted")
        assert client.read_response()[2] == b"posted"
        assert upstream.read_head().startswith(b"GET /next ")
        upstream.respond(b"got")
        assert client.read_response()[2] == b"got"
        client.close()
        upstream.close()


def test_a_request_hidden_in_a_body_is_body(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    hidden = b"GET /canary HTTP/1.1\r\nHost: a\r\n\r\n"
    client = rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(hidden) + hidden)
    upstream = app.accept()
    upstream.read_head()
    assert upstream.read(len(hidden)) == hidden
    upstream.respond()
    assert client.read_response()[0] == 200
    assert upstream.is_quiet()


def test_half_closed_client_gets_its_answers(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(POST + b"hello" + b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
    client.shut()
    upstream = app.accept()
    upstream.read_head()
    assert upstream.read(5) == b"hello"
    upstream.respond(b"one")
    assert upstream.read_head().startswith(b"GET /second ")
    upstream.respond(b"two")
    assert client.read_response()[2] == b"one"
    assert client.read_response()[2] == b"two"
    assert client.is_closed()


def test_client_that_closes_in_the_middle_of_its_body_is_told_and_the_application_sees_it_cut(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(POST + b"he")
    upstream = app.accept()
    upstream.read_head()
    assert upstream.read(2) == b"he"
    client.shut()
    assert upstream.is_closed()
    assert client.read_response()[0] == 400
    assert client.is_closed()


def test_client_that_closes_in_the_middle_of_its_head_is_told(rig: Rig) -> None:
    rig.serve(rig.app())
    client = rig.client(b"GET / HT")
    client.shut()
    assert client.read_response()[0] == 400
    assert client.is_closed()


def test_client_that_vanishes_takes_its_upstream_request_along(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client()
    client.get()
    upstream = app.accept()
    upstream.read_head()
    rig.wait_counts("r1", 1)
    client.reset()
    assert upstream.is_closed()
    rig.wait_counts("r1", 0)


def test_expect_100_continue_is_relayed_and_the_body_follows(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    upstream = app.accept()
    assert b"Expect: 100-continue\r\n" in upstream.read_head()
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"hello")
    assert upstream.read(5) == b"hello"
    upstream.respond(b"done")
    assert client.read_response()[2] == b"done"
    client.get()
    upstream.read_head()
    upstream.respond(b"more")
    assert client.read_response()[2] == b"more"


def test_expect_100_continue_with_a_silent_application_does_not_hold_the_body_back(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    upstream = app.accept()
    upstream.read_head()
    client.send(b"hello")
    assert upstream.read(5) == b"hello"
    upstream.respond(b"done")
    assert client.read_response()[2] == b"done"


def test_early_refusal_instead_of_100_reaches_the_client_and_ends_the_connection(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    upstream = app.accept()
    upstream.read_head()
    upstream.respond(b"who?", status=b"401 Unauthorized")
    status, head, body = client.read_response()
    assert (status, body) == (401, b"who?")
    assert b"Connection: close" in head
    assert client.is_closed()
    assert upstream.is_closed()


@pytest.mark.parametrize("is_reset", [False, True])
def test_early_answer_while_the_body_is_sent_reaches_the_client(rig: Rig, is_reset: bool) -> None:
    app = rig.app()
    rig.serve(app)
    size = 8 * 1024 * 1024
    client = rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    client.send(b"x" * 100_000)
    upstream = app.accept()
    upstream.read_head()
    upstream.read(1000)
    upstream.respond(b"too big", status=b"413 Content Too Large")
    if is_reset:
        upstream.close()  # with unread bytes: this is an RST
    status, head, body = client.read_response()
    assert (status, body) == (413, b"too big")
    assert b"Connection: close" in head
    client.send(b"x" * 1_000_000)
    client.send(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.is_closed()
    if not is_reset:
        assert b"/never" not in upstream.read_to_end()


def test_both_directions_flow_at_once(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    upstream = app.accept()
    upstream.read_head()
    upstream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.read_head()
    for word in (b"one", b"two", b"six"):
        client.send(b"3\r\n" + word + b"\r\n")
        assert upstream.read(8) == b"3\r\n" + word + b"\r\n"
        upstream.send(b"3\r\n" + word + b"\r\n")
        assert client.read(8) == b"3\r\n" + word + b"\r\n"
    client.send(b"0\r\n\r\n")
    assert upstream.read(5) == b"0\r\n\r\n"
    upstream.send(b"0\r\n\r\n")
    assert client.read(5) == b"0\r\n\r\n"


def test_interim_responses_are_relayed_but_not_to_http10(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    for version in (b"1.1", b"1.0"):
        client = rig.client(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version)
        upstream = app.accept()
        upstream.read_head()
        upstream.send(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        if version == b"1.1":
            assert client.read_response()[0] == 102
            assert b"Link: </a>" in client.read_head()
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        assert client.read_response()[:3:2] == (200, b"ok")
        client.close()
        upstream.close()


def test_events_are_passed_on_as_they_come(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client()
    client.get(b"/events")
    upstream = app.accept()
    upstream.read_head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    client.read_head()
    for number in range(5):
        upstream.send(b"data: %d\n\n" % number)
        assert client.read_until(b"\n\n\r\n").endswith(b"data: %d\n\n\r\n" % number)
    upstream.close()
    assert client.read(5) == b"0\r\n\r\n"


def send_until_stuck(peer: Peer, piece: bytes, times: int) -> int:
    """Send ``piece`` up to so many times; return how many bytes went before nothing moved for a while."""
    peer.sock.settimeout(0.3)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < times * len(piece):
            sent += peer.sock.send(memoryview(piece)[sent % len(piece) :])
    peer.sock.settimeout(10)
    return sent


def send_rest(peer: Peer, piece: bytes, times: int, sent: int, end: bytes = b"") -> None:
    """Send what ``send_until_stuck`` has not sent, and ``end``."""
    peer.send(piece[sent % len(piece) :])
    for _ in range(times - sent // len(piece) - 1):
        peer.send(piece)
    peer.send(end)


PATTERN = bytes(range(256)) * 256


def test_a_slow_reader_stops_the_application_and_gets_every_byte(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    size = 64 * 1024 * 1024
    client = rig.client(receive_buffer=65536)
    client.get()
    upstream = app.accept()
    upstream.read_head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    before = rig.rss_bytes()
    sent = send_until_stuck(upstream, PATTERN, size // len(PATTERN))
    assert rig.rss_bytes() - before < 4 * 1024 * 1024
    sender = threading.Thread(target=send_rest, args=(upstream, PATTERN, size // len(PATTERN), sent))
    sender.start()
    client.read_head()
    received, correct = 0, True
    while received < size:
        data = client.buffer or client.more()
        client.buffer = b""
        start = received % 256
        correct = correct and data == (PATTERN * (len(data) // len(PATTERN) + 2))[start : start + len(data)]
        received += len(data)
    sender.join()
    assert correct
    assert rig.rss_bytes() - before < 4 * 1024 * 1024


@pytest.mark.parametrize("is_chunked", [False, True])
def test_an_application_that_does_not_read_stops_the_upload(rig: Rig, is_chunked: bool) -> None:
    """200 MB: the client has to wait, little of it is in memory, and all of it arrives when the application reads."""
    app = rig.app()
    rig.serve(app)
    chunk = (b"%x\r\n%b\r\n" % (len(PATTERN), PATTERN)) if is_chunked else PATTERN
    chunks = -(-200_000_000 // len(PATTERN))
    framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % (chunks * len(PATTERN))
    end = b"0\r\n\r\n" if is_chunked else b""
    before = rig.rss_bytes()
    client = rig.client(b"PUT / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % framing)
    upstream = app.accept()
    stuck = send_until_stuck(client, chunk, chunks)
    assert stuck < 100_000_000  # it is in the buffers of the kernel, whose size is the machine's business
    assert rig.rss_bytes() - before < 2 * 1024 * 1024
    sender = threading.Thread(target=send_rest, args=(client, chunk, chunks, stuck, end))
    sender.start()
    upstream.read_head()
    read, size = zlib.crc32(b""), 0
    for data in upstream.body(is_chunked, chunks * len(PATTERN)):
        read = zlib.crc32(data, read)
        size += len(data)
    sender.join()
    assert size == chunks * len(PATTERN)
    assert read == functools.reduce(lambda crc, _: zlib.crc32(PATTERN, crc), range(chunks), zlib.crc32(b""))
    assert rig.rss_bytes() - before < 2 * 1024 * 1024
    upstream.respond(b"thanks")
    assert client.read_response()[2] == b"thanks"


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
@pytest.mark.parametrize("is_reset", [False, True])
def test_an_application_that_dies_before_its_answer_gives_502(rig: Rig, head: bytes, is_reset: bool) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client()
    client.get()
    upstream = app.accept()
    upstream.read_head()
    if head:
        upstream.send(head)
    if is_reset:
        upstream.reset()
    else:
        upstream.close()
    assert client.read_response()[0] == 502
    rig.wait_counts("r1", 0)


def test_malformed_chunk_in_a_request_is_refused_and_the_application_sees_it_cut(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    for body, is_in_first in ((b"zz\r\n", True), (b"3\r\nabcX", False)):
        client = rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        if is_in_first:
            client.send(body)
            upstream = app.accept()
        else:
            upstream = app.accept()
            upstream.read_head()
            client.send(body)
        status, head, _ = client.read_response()
        assert status == 400
        assert b"Connection: close" in head
        assert upstream.is_closed() or b"0\r\n\r\n" not in upstream.read_to_end()
        assert client.is_closed()


def test_app_without_keep_alive_gets_a_connection_per_request(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client()
    for number in range(3):
        client.get(b"/%d" % number)
        upstream = app.accept()
        upstream.read_head()
        upstream.respond(b"x", b"Connection: close")
        assert client.read_response()[0] == 200
        assert upstream.is_closed()
