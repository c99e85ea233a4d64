"""What a client may not do, what it is told, and how long it may take."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from rollbridge.proxy.messages import Settings
from tests.proxy.rig import Rig, clean
from tests.proxy.test_head import REFUSED


@pytest.fixture(scope="module")
def hasty_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    before = "from rollbridge.proxy import client; client.BODY_STALL_SECONDS = 0.2; client.WRITE_STALL_SECONDS = 0.3"
    with Rig(tmp_path_factory.mktemp("worker"), before=before) as rig:
        yield rig


@pytest.fixture
def hasty(hasty_rig: Rig) -> Iterator[Rig]:
    with clean(hasty_rig) as rig:
        yield rig


@pytest.mark.parametrize(("data", "status"), REFUSED.values(), ids=REFUSED.keys())
def test_hostile_request_is_answered_closed_and_never_forwarded(rig: Rig, data: bytes, status: int) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(data + b"GET /canary HTTP/1.1\r\nHost: a\r\n\r\n")
    answered, head, body = client.read_response()
    assert answered == status
    assert b"Connection: close" in head
    assert body.startswith(b"%d " % status)
    assert client.read_to_end() == b""
    assert not app.has_connection()


def test_a_hostile_request_behind_a_good_one_is_refused_after_its_answer(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost : a\r\n\r\n")
    upstream = app.accept()
    upstream.read_head()
    upstream.respond(b"good")
    assert client.read_response()[2] == b"good"
    assert client.read_response()[0] == 400
    assert client.is_closed()
    assert upstream.buffer == b""


def test_too_large_heads_are_told_apart(rig: Rig) -> None:
    rig.configure(max_head_bytes=1000)
    rig.serve(rig.app())
    client = rig.client(b"GET /" + b"a" * 1000)
    assert client.read_response()[0] == 414
    client = rig.client(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1000)
    assert client.read_response()[0] == 431


def test_a_refusal_reaches_a_client_that_is_still_sending(rig: Rig) -> None:
    rig.serve(rig.app())
    client = rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n" + b"x" * 3_000_000)
    assert client.read_response()[0] == 400
    client.send(b"x" * 1_000_000)
    assert client.is_closed()


def test_slow_head_gets_408(rig: Rig) -> None:
    rig.configure(head_timeout_seconds=0.2)
    rig.serve(rig.app())
    client = rig.client(b"GET / HTTP/1.1\r\n")
    began = time.monotonic()
    while client.is_quiet(0.01):
        client.send(b"X: drip\r\n")  # no byte of it may extend the time
        assert time.monotonic() - began < 5
    assert client.read_response()[0] == 408
    assert client.is_closed()


def test_slow_second_head_gets_408_too(rig: Rig) -> None:
    rig.configure(head_timeout_seconds=0.2)
    app = rig.app()
    rig.serve(app)
    client = rig.client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET")
    upstream = app.accept()
    upstream.read_head()
    upstream.respond()
    assert client.read_response()[0] == 200
    assert client.read_response()[0] == 408


@pytest.mark.parametrize("has_asked", [False, True])
def test_idle_connection_is_closed_without_a_word(rig: Rig, has_asked: bool) -> None:
    rig.configure(idle_timeout_seconds=0.2)
    app = rig.app()
    rig.serve(app)
    client = rig.client()
    if has_asked:
        client.get()
        upstream = app.accept()
        upstream.read_head()
        upstream.respond()
        client.read_response()
    assert client.read_to_end() == b""


def test_slow_body_gets_408_and_the_application_sees_it_cut(hasty: Rig) -> None:
    app = hasty.app()
    hasty.serve(app)
    client = hasty.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
    upstream = app.accept()
    upstream.read_head()
    assert client.read_response()[0] == 408
    assert upstream.read_to_end() == b"he"
    assert client.is_closed()


def test_waiting_for_100_continue_is_no_slow_body(hasty: Rig) -> None:
    app = hasty.app()
    hasty.serve(app)
    client = hasty.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    upstream = app.accept()
    upstream.read_head()
    other = hasty.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
    assert other.read_response()[0] == 408  # as long as this took, the first has waited too
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.read_head().startswith(b"HTTP/1.1 100 ")
    assert client.read_response()[0] == 408


def test_a_reader_that_takes_nothing_is_given_up(hasty: Rig) -> None:
    app = hasty.app()
    hasty.serve(app)
    client = hasty.client(receive_buffer=4096)
    client.get()
    upstream = app.accept()
    upstream.read_head()
    with pytest.raises(ConnectionError):
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 100_000_000)
    hasty.wait_counts("r1", 0)


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_application_that_does_not_answer_in_time_gives_504(rig: Rig, method: bytes) -> None:
    rig.configure(response_timeout_seconds=0.2)
    app = rig.app()
    rig.serve(app)
    client = rig.client(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream = app.accept()
    upstream.read_head()
    head = client.read_head()
    assert head.startswith(b"HTTP/1.1 504 ")
    assert upstream.is_closed()
    if method == b"HEAD":
        assert client.is_quiet()


def test_response_timeout_is_over_with_the_head(rig: Rig) -> None:
    rig.configure(response_timeout_seconds=0.2)
    app = rig.app()
    rig.serve(app)
    slow, late = rig.client(), rig.client()
    slow.get(b"/slow")
    first = app.accept()
    first.read_head()
    first.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
    late.get(b"/late")
    app.accept().read_head()
    assert late.read_response()[0] == 504
    first.send(b"fine")
    assert slow.read_response()[2] == b"fine"


def test_response_timeout_begins_when_the_request_has_been_sent(rig: Rig) -> None:
    rig.configure(response_timeout_seconds=0.2)
    app = rig.app()
    rig.serve(app)
    slow, late = rig.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx"), rig.client()
    upload = app.accept()
    upload.read_head()
    late.get()
    app.accept().read_head()
    assert late.read_response()[0] == 504
    slow.send(b"y")
    assert upload.read(2) == b"xy"
    upload.respond(b"fine")
    assert slow.read_response()[2] == b"fine"
    slow.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
    with pytest.raises(OSError):  # the application does not read: that is its turn, too
        slow.send(b"x" * 100_000_000)
    assert slow.read_response()[0] == 504


def test_settings_are_what_the_supervisor_said_last(rig: Rig) -> None:
    app = rig.app()
    rig.send(Settings(trusted_proxies=(), forwarded_port=443))
    rig.serve(app)
    client = rig.client()
    client.get(b"/", b"X-Forwarded-For: evil")
    head = app.accept().read_head()
    assert b"X-Forwarded-For: 127.0.0.1\r\n" in head
    assert b"X-Forwarded-Port: 443\r\n" in head
    rig.send(Settings())
    rig.serve(app)
    client = rig.client()
    client.get(b"/", b"X-Forwarded-For: friend")
    head = app.accept().read_head()
    assert b"X-Forwarded-For: friend, 127.0.0.1\r\n" in head
