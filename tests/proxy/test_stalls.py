"""Clients that stop in the middle: whatever else goes on with their connection, their time runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from tests.proxy.rig import App, Peer, Rig, clean

EXPECTING = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"


@pytest.fixture(scope="module")
def hasty_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    before = (
        "from rollbridge.proxy import client; "
        "client.BODY_STALL_SECONDS = 0.3; client.WRITE_STALL_SECONDS = 0.5; client.EXPECT_STALL_SECONDS = 0.4"
    )
    with Rig(tmp_path_factory.mktemp("worker"), before=before) as rig:
        yield rig


@pytest.fixture
def hasty(hasty_rig: Rig) -> Iterator[Rig]:
    with clean(hasty_rig) as rig:
        yield rig


@contextlib.contextmanager
def answering(app: App, body: bytes) -> Iterator[None]:
    """The application answers every request of its connections with ``body``, for as long as it is asked."""

    def serve(peer: Peer) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                peer.read_head()
                peer.respond(body)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(app.accept(),), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield
    app.sock.close()


def test_a_reader_that_takes_nothing_is_given_up_however_much_it_has_asked_for(hasty: Rig) -> None:
    app = hasty.app()
    hasty.serve(app)
    with answering(app, b"x" * 40_000):
        client = hasty.client(receive_buffer=4096)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)  # forty megabytes, more than any buffer takes
        hasty.wait(lambda: hasty.counts.clients == 1)
        hasty.wait(lambda: hasty.counts.clients == 0)


def test_a_reader_that_takes_nothing_is_given_up_though_its_body_has_just_ended(hasty: Rig) -> None:
    app = hasty.app()
    hasty.serve(app)
    client = hasty.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello", receive_buffer=4096)
    upstream = app.accept()
    upstream.read_head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    upstream.sock.settimeout(0.1)
    with pytest.raises(TimeoutError):  # all that fits on the way
        upstream.sock.sendall(bytes(100_000_000))
    with contextlib.suppress(ConnectionError):
        client.send(b"world")
    upstream.sock.settimeout(10)
    with pytest.raises(ConnectionError):
        upstream.send(bytes(100_000_000))
    hasty.wait_counts("r1", 0)


def test_a_slow_body_is_noticed_though_an_answer_has_begun(hasty: Rig) -> None:
    app = hasty.app()
    hasty.serve(app)
    client = hasty.client(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello", receive_buffer=4096)
    upstream = app.accept()
    upstream.read_head()
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")

    def send() -> None:
        with contextlib.suppress(ConnectionError):  # given up before all of it was read: just as well
            upstream.send(bytes(8_000_000))  # enough to have to wait for the client's reading

    sender = threading.Thread(target=send)
    sender.start()
    client.read_head()
    assert len(client.read_to_end()) < 10_000_000
    sender.join()
    hasty.wait_counts("r1", 0)


def test_whoever_waits_for_100_continue_does_not_wait_for_ever(hasty: Rig) -> None:
    app = hasty.app()
    hasty.serve(app)
    client = hasty.client(EXPECTING)
    app.accept().read_head()
    assert client.read_response()[0] == 408
    assert client.is_closed()


def test_whoever_no_longer_waits_for_100_continue_has_a_slow_body_like_others(hasty: Rig) -> None:
    app = hasty.app()
    hasty.serve(app)
    client = hasty.client(EXPECTING + b"hel")
    app.accept().read_head()
    assert client.read_response()[0] == 408


def test_an_application_that_says_neither_100_nor_anything_else_gives_504(hasty: Rig) -> None:
    hasty.configure(response_timeout_seconds=0.2)
    app = hasty.app()
    hasty.serve(app)
    client = hasty.client(EXPECTING)
    app.accept().read_head()
    assert client.read_response()[0] == 504


def test_a_body_that_comes_without_100_takes_its_own_time(rig: Rig) -> None:
    rig.configure(response_timeout_seconds=0.3)
    app = rig.app()
    rig.serve(app)
    client, late = rig.client(EXPECTING), rig.client()
    upstream = app.accept()
    upstream.read_head()
    client.send(b"hello")
    upstream.read(5)
    late.get()
    app.accept().read_head()
    assert late.read_response()[0] == 504  # by now the first would have had its 504, too, if its time had run on
    client.send(b"world")
    upstream.read(5)
    upstream.respond(b"fine")
    assert client.read_response()[2] == b"fine"
