"""Large bodies, which move through pipes: everything holds for them that holds for small ones."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollbridge.proxy.framing import LengthReader
from rollbridge.proxy.loop import Loop
from rollbridge.proxy.splice import PIPE_BYTES, SPLICE_BYTES, Pipes
from tests.proxy.rig import Peer, Rig, clean

BODY = random.Random(1).randbytes(3 * 1024 * 1024)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY)
LIMIT_NOTHING = "pass"
# What a kernel, a sandbox or a shortage may do to us. Each statement runs in the worker before it starts.
REFUSE = "import os; real = os.splice; os.splice = lambda a, b, n: {}"
WAYS = {
    "spliced": LIMIT_NOTHING,
    "a few bytes at a time": REFUSE.format("real(a, b, min(n, 5000))"),
    "no splice in this Python": "import os; del os.splice",
    "no pipe left": "from rollbridge.proxy.splice import Pipes; Pipes.__init__.__defaults__ = (0,)",
    "one pipe": "from rollbridge.proxy.splice import Pipes; Pipes.__init__.__defaults__ = (1,)",
    "no descriptor for a pipe": "import os; os.pipe2 = lambda flags: os.open('/dev/fd/none', 0)",
    "small pipes": "import fcntl; del fcntl.F_SETPIPE_SZ; fcntl.F_SETPIPE_SZ = -1",
    "refused at the socket that is read": REFUSE.format("exec('raise OSError(22, str())')"),
    # The first use of a pipe's end works, so that bytes are in the pipe when the refusal comes.
    "refused at the socket that is written": (
        "import os, stat; real = os.splice;"
        "os.splice = lambda a, b, n: real(a, b, n) if stat.S_ISFIFO(os.fstat(b).st_mode)"
        " else exec('raise OSError(22, str())')"
    ),
}


@pytest.fixture(scope="module", params=WAYS.values(), ids=WAYS.keys())
def way_rig(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("worker"), before=request.param) as rig:
        yield rig


@pytest.fixture
def any_way(way_rig: Rig) -> Iterator[Rig]:
    with clean(way_rig) as rig:
        yield rig


def in_background(peer: Peer, data: bytes) -> threading.Thread:
    def send() -> None:
        with contextlib.suppress(OSError):  # the other side goes first, as some tests want it
            peer.send(data)

    sender = threading.Thread(target=send)
    sender.start()
    return sender


def test_downloads_arrive_whole_and_their_connections_are_kept(any_way: Rig) -> None:
    app = any_way.app()
    any_way.serve(app)
    client = any_way.client(receive_buffer=65536)
    upstream = None
    for _ in range(3):
        client.get()
        upstream = upstream or app.accept()
        upstream.read_head()
        sender = in_background(upstream, HEAD + BODY)
        assert client.read_response()[2] == BODY
        sender.join()
        # From the last byte on the connection rests; only then may it be asked again.
        any_way.wait_counts("r1", 0)
    assert not app.has_connection()


def test_uploads_arrive_whole_and_what_follows_is_the_next_request(any_way: Rig) -> None:
    app = any_way.app()
    any_way.serve(app)
    client = any_way.client()
    sender = in_background(client, POST + BODY + POST + BODY + ASK)
    for _ in range(2):
        upstream = app.accept()
        upstream.read_head()
        assert upstream.read(len(BODY)) == BODY
        assert upstream.is_quiet(0.05)
        upstream.respond(b"thanks")
        assert client.read_response()[2] == b"thanks"
    upstream.read_head()
    upstream.respond(b"bye")
    assert client.read_response()[2] == b"bye"
    sender.join()


def test_both_directions_at_once(any_way: Rig) -> None:
    app = any_way.app()
    any_way.serve(app)
    client = any_way.client()
    uploading = in_background(client, POST + BODY)
    upstream = app.accept()
    upstream.read_head()
    downloading = in_background(upstream, HEAD + BODY)
    assert client.read_response()[2] == BODY
    # With the answer complete the exchange is over: the application did not want the rest.
    client.close()
    for thread in (uploading, downloading):
        thread.join()


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_download_that_is_reset_never_looks_complete(any_way: Rig, is_slow: bool) -> None:
    app = any_way.app()
    any_way.serve(app)
    client = any_way.client(ASK, receive_buffer=4096 if is_slow else 1024 * 1024)
    upstream = app.accept()
    upstream.read_head()
    sender = in_background(upstream, HEAD + BODY[:-1])
    received = b""
    if is_slow:
        time.sleep(0.1)  # everything is as full as it gets
    else:
        received = client.read(len(HEAD) + len(BODY) - 1)
        sender.join()
    upstream.reset()
    received += client.read_to_end()
    assert len(received) < len(HEAD) + len(BODY)
    assert (HEAD + BODY).startswith(received)
    sender.join()


def test_what_was_received_before_the_end_is_passed_on(any_way: Rig) -> None:
    app = any_way.app()
    any_way.serve(app)
    client = any_way.client(ASK, receive_buffer=4096)
    upstream = app.accept()
    upstream.read_head()
    upstream.send(HEAD + BODY[:400_000])
    upstream.shut()
    client.read_head()
    assert client.read_to_end() == BODY[:400_000]


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_client_that_vanishes_in_the_middle_takes_its_download_along(any_way: Rig, is_reset: bool) -> None:
    app = any_way.app()
    any_way.serve(app)
    client = any_way.client(ASK, receive_buffer=4096)
    upstream = app.accept()
    upstream.read_head()
    sender = in_background(upstream, HEAD + BODY)
    client.read(50_000)
    client.reset() if is_reset else client.close()
    any_way.wait_counts("r1", 0)
    upstream.sock.settimeout(5)
    with pytest.raises(ConnectionError):
        while upstream.sock.recv(1):
            pass
        raise ConnectionResetError
    sender.join()


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_client_that_vanishes_in_the_middle_takes_its_upload_along(any_way: Rig, is_reset: bool) -> None:
    app = any_way.app()
    any_way.serve(app)
    client = any_way.client(POST + BODY[:1_000_000])
    upstream = app.accept()
    upstream.read_head()
    assert upstream.read(500_000) == BODY[:500_000]
    client.reset() if is_reset else client.close()
    received = b""
    with contextlib.suppress(ConnectionResetError):
        received = upstream.read_to_end()
    assert len(received) <= 500_000
    any_way.wait_counts("r1", 0)


def test_an_early_answer_reaches_the_client_in_the_middle_of_its_upload(any_way: Rig) -> None:
    app = any_way.app()
    any_way.serve(app)
    client = any_way.client()
    # One byte is never sent: however much the kernel's buffers take, the request is not complete.
    sender = in_background(client, POST + BODY[:-1])
    upstream = app.accept()
    upstream.read_head()
    upstream.read(200_000)
    upstream.respond(b"too much", status=b"413 Content Too Large")
    upstream.close()
    status, head, body = client.read_response()
    assert (status, body) == (413, b"too much")
    assert b"Connection: close" in head
    sender.join()


def test_an_application_that_dies_in_the_middle_of_an_upload_gives_502(any_way: Rig) -> None:
    app = any_way.app()
    any_way.serve(app)
    client = any_way.client()
    sender = in_background(client, POST + BODY)
    upstream = app.accept()
    upstream.read_head()
    upstream.read(200_000)
    upstream.reset()
    assert client.read_response()[0] == 502
    sender.join()


def test_bytes_after_a_large_response_reach_nobody(any_way: Rig) -> None:
    app = any_way.app()
    any_way.serve(app)
    client = any_way.client(ASK)
    first = app.accept()
    first.read_head()
    sender = in_background(first, HEAD + BODY + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")
    # Asked at once, so that the connection is wanted again in the very moment in which it becomes free.
    client.send(ASK)
    assert client.read_response()[2] == BODY
    second = app.accept()
    second.read_head()
    second.respond(b"good")
    assert client.read_response()[2] == b"good"
    assert first.is_closed()
    sender.join()


def test_the_next_request_waits_behind_a_large_response(any_way: Rig) -> None:
    app = any_way.app()
    any_way.serve(app)
    client = any_way.client(ASK + ASK, receive_buffer=4096)
    upstream = app.accept()
    upstream.read_head()
    sender = in_background(upstream, HEAD + BODY)
    assert client.read_response()[2] == BODY
    sender.join()
    upstream.read_head()
    upstream.respond(b"second")
    assert client.read_response()[2] == b"second"


def test_a_trickle_is_passed_on_as_it_comes(any_way: Rig) -> None:
    app = any_way.app()
    any_way.serve(app)
    client = any_way.client(ASK)
    upstream = app.accept()
    upstream.read_head()
    upstream.send(HEAD)
    client.read_head()
    for number in range(10):
        piece = b"piece %d\n" % number
        began = time.monotonic()
        upstream.send(piece)
        assert client.read(len(piece)) == piece
        assert time.monotonic() - began < 0.15  # a corked socket would sit on it for 200 ms


def test_pipes_are_used_again_and_bounded(tmp_path: Path) -> None:
    limit = 4
    before = f"from rollbridge.proxy.splice import Pipes; Pipes.__init__.__defaults__ = ({limit},)"
    with Rig(tmp_path, before=before) as rig, clean(rig):
        app = rig.app()
        rig.serve(app)
        idle = rig.open_descriptors()
        clients = [rig.client(ASK, receive_buffer=4096) for _ in range(3 * limit)]
        senders = []
        for _ in clients:
            upstream = app.accept()
            upstream.read_head()
            senders.append(in_background(upstream, HEAD + BODY))
        # All pipes are held by those that are stuck, and the others do without.
        rig.wait(lambda: rig.open_descriptors() == idle + 2 * len(clients) + 2 * limit)
        for client in clients:
            assert client.read_response()[2] == BODY
        for sender in senders:
            sender.join()
        rig.wait(lambda: rig.open_descriptors() <= idle + 2 * len(clients))


def test_pipes_are_made_when_there_is_none_and_none_is_used_twice() -> None:
    pipes = Pipes(Loop(lambda *_: None), limit=2)
    first, second = pipes.take(), pipes.take()
    assert first is not None
    assert second is not None
    assert pipes.take() is None
    pipes.give_back(first, is_empty=True)
    assert pipes.take() is first
    pipes.give_back(first, is_empty=False)  # closed, and replaced by a new one
    third = pipes.take()
    assert third is not None
    assert third is not first
    pipes.give_back(second, is_empty=True)
    pipes.expired()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(second.read_fd)
    third.close()


def test_a_reader_knows_what_went_another_way() -> None:
    reader = LengthReader(10)
    assert reader.feed(b"123") == b"123"
    reader.skip(6)
    assert (reader.left, reader.is_done) == (1, False)
    reader.skip(1)
    assert (reader.left, reader.is_done) == (0, True)


def test_a_pipe_is_worth_it_only_when_there_is_more_than_one_read() -> None:
    assert SPLICE_BYTES <= PIPE_BYTES


def test_large_bodies_really_go_through_pipes(tmp_path: Path) -> None:
    mark = tmp_path / "spliced"
    before = (
        f"import os, pathlib; s = os.splice; os.splice = lambda *a: (pathlib.Path({str(mark)!r}).touch(), s(*a))[1]"
    )
    with Rig(tmp_path, before=before) as rig, clean(rig):
        app = rig.app()
        rig.serve(app)
        client = rig.client(ASK)
        upstream = app.accept()
        upstream.read_head()
        upstream.respond(b"small")
        client.read_response()
        assert not mark.exists()
        client.send(ASK)
        upstream.read_head()
        sender = in_background(upstream, HEAD + BODY)
        client.read_response()
        sender.join()
        assert mark.exists()
        mark.unlink()
        sender = in_background(client, POST + BODY)
        upstream = app.accept()
        upstream.read_head()
        upstream.read(len(BODY))
        sender.join()
        assert mark.exists()
        upstream.respond()
        client.read_response()


def test_a_reader_that_takes_nothing_of_a_large_body_is_given_up(tmp_path: Path) -> None:
    with (
        Rig(tmp_path, before="from rollbridge.proxy import client; client.WRITE_STALL_SECONDS = 0.3") as rig,
        clean(rig),
    ):
        app = rig.app()
        rig.serve(app)
        rig.client(ASK, receive_buffer=4096)
        upstream = app.accept()
        upstream.read_head()
        # More than the kernel ever keeps for one socket (tcp_wmem): else the response may be over at once.
        sender = in_background(upstream, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * len(BODY)) + BODY * 4)
        rig.wait_counts("r1", 1)
        rig.wait_counts("r1", 0)
        sender.join()


def test_a_slow_large_upload_gets_408(tmp_path: Path) -> None:
    with (
        Rig(tmp_path, before="from rollbridge.proxy import client; client.BODY_STALL_SECONDS = 0.3") as rig,
        clean(rig),
    ):
        app = rig.app()
        rig.serve(app)
        client = rig.client(POST + BODY[:300_000])
        upstream = app.accept()
        upstream.read_head()
        assert client.read_response()[0] == 408
        assert upstream.read_to_end() == BODY[:300_000]


def test_an_application_that_stops_reading_a_large_upload_gives_504(rig: Rig) -> None:
    app = rig.app()
    rig.configure(response_timeout_seconds=0.3)
    rig.serve(app)
    client = rig.client()
    sender = in_background(client, POST + BODY + BODY)
    upstream = app.accept()
    upstream.read_head()
    assert client.read_response()[0] == 504
    client.close()
    sender.join()
