"""Connections to the application: reused when that is safe, retried when nothing can happen twice."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from tests.proxy.rig import App, Peer, Rig

POST = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"


def warm_up(rig: Rig, app: App) -> tuple[Peer, Peer]:
    """A client, and the idle upstream connection that has served it."""
    rig.serve(app)
    client = rig.client()
    client.get(b"/warm")
    upstream = app.accept()
    upstream.read_head()
    upstream.respond()
    client.read_response()
    return client, upstream


@pytest.mark.parametrize("is_reset", [False, True])
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
def test_safe_request_on_a_dead_reused_connection_is_sent_once_more(rig: Rig, method: bytes, is_reset: bool) -> None:
    app = rig.app()
    client, upstream = warm_up(rig, app)
    client.send(method + b" /again HTTP/1.1\r\nHost: a\r\n\r\n")
    assert upstream.read_head().startswith(method + b" /again ")
    if is_reset:
        upstream.reset()
    else:
        upstream.close()
    fresh = app.accept()
    assert fresh.read_head().startswith(method + b" /again ")
    fresh.send(b"HTTP/1.1 200 OK\r\nX: fresh\r\nContent-Length: 0\r\n\r\n")
    assert b"X: fresh" in client.read_head()
    rig.wait_counts("r1", 0)


def test_it_is_sent_once_more_and_not_again(rig: Rig) -> None:
    app = rig.app()
    client, upstream = warm_up(rig, app)
    client.get()
    upstream.read_head()
    upstream.close()
    fresh = app.accept()
    fresh.read_head()
    fresh.close()
    assert client.read_response()[0] == 502
    assert not app.has_connection()


def test_a_fresh_connection_that_dies_is_not_retried(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client()
    client.get()
    upstream = app.accept()
    upstream.read_head()
    upstream.close()
    assert client.read_response()[0] == 502
    assert not app.has_connection()


def test_nothing_is_retried_once_the_application_has_begun_to_answer(rig: Rig) -> None:
    for begun in (b"H", b"HTTP/1.1 103 Early Hints\r\n\r\n"):
        app = rig.app()
        client, upstream = warm_up(rig, app)
        client.get()
        upstream.read_head()
        upstream.send(begun)
        upstream.close()
        status = client.read_response()[0]
        assert (status if status != 103 else client.read_response()[0]) == 502
        assert not app.has_connection()


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST,
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PATCH / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
    ids=lambda request: request.split(b" ")[0].decode(),
)
def test_a_request_that_may_not_be_repeated_gets_a_fresh_connection(rig: Rig, request_bytes: bytes) -> None:
    app = rig.app()
    client, idle = warm_up(rig, app)
    client.send(request_bytes)
    fresh = app.accept()
    fresh.read_head()
    assert idle.is_quiet() or idle.is_closed()
    fresh.close()
    assert client.read_response()[0] == 502
    assert not app.has_connection()


def test_an_idle_connection_that_the_application_closes_is_forgotten(rig: Rig) -> None:
    app = rig.app()
    client, upstream = warm_up(rig, app)
    upstream.close()
    client.get()
    fresh = app.accept()
    fresh.read_head()
    fresh.respond(b"fresh")
    assert client.read_response()[2] == b"fresh"


@pytest.mark.parametrize("is_reset", [False, True])
def test_close_and_reuse_in_the_same_instant(rig: Rig, is_reset: bool) -> None:
    """The worker is stopped while the application closes and the client asks: it sees both at once, in either order."""
    for turn in range(10):
        app = rig.app()
        client, upstream = warm_up(rig, app)
        os.kill(rig.process.pid, signal.SIGSTOP)
        for act in (0, 1) if turn % 2 else (1, 0):
            if act:
                upstream.reset() if is_reset else upstream.close()
            else:
                client.get(b"/race") if turn % 3 else client.send(POST)
        os.kill(rig.process.pid, signal.SIGCONT)
        fresh = app.accept()
        assert b" /race " in fresh.read_head() if turn % 3 else fresh.read_head().startswith(b"POST")
        fresh.respond(b"saved")
        assert client.read_response()[2] == b"saved"
        client.close()
        app.close()


def test_idle_connections_are_closed_by_us_before_an_application_would(rig: Rig) -> None:
    _, upstream = warm_up(rig, rig.app())
    upstream.sock.settimeout(1.9)  # gunicorn closes after 2 seconds
    assert upstream.is_closed()


def test_no_more_idle_connections_are_kept_than_the_limit(tmp_path: Path) -> None:
    before = "import rollbridge.proxy.upstream as u; u.MAX_IDLE = 2; u.IDLE_SECONDS = 3600.0"
    with Rig(tmp_path, before=before) as rig:
        app = rig.app()
        rig.serve(app)
        client = rig.client()
        upstreams = []
        for _ in range(3):
            client.send(POST)
            upstream = app.accept()
            upstream.read_head()
            upstream.read(5)
            upstream.respond()
            assert client.read_response()[0] == 200
            upstreams.append(upstream)
        assert upstreams[2].is_closed()
        assert upstreams[0].is_quiet()
        assert upstreams[1].is_quiet()


def test_closing_at_the_worst_moment_loses_nothing_and_doubles_nothing(rig: Rig) -> None:
    """An application that closes each connection after two answers, without saying so, right when it may be reused."""
    app = rig.app(backlog=512)
    rig.serve(app)
    seen: dict[bytes, int] = {}
    lock = threading.Lock()

    def serve(peer: Peer) -> None:
        try:
            for _ in range(2):
                head = peer.read_head()
                if head.startswith(b"POST"):
                    peer.read(5)
                    with lock:
                        seen[head.split(b" ")[1]] = seen.get(head.split(b" ")[1], 0) + 1
                peer.respond(head.split(b" ")[1])
        except (EOFError, OSError):
            return
        finally:
            peer.close()

    def accept() -> None:
        try:
            while True:
                threading.Thread(target=serve, args=(app.accept(),), daemon=True).start()
        except OSError:
            return

    failures: list[tuple[bytes, int]] = []

    def ask(number: int) -> None:
        client = clients[number]
        for turn in range(100):
            target = b"/%d-%d" % (number, turn)
            if turn % 2:
                client.send(b"POST " + target + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
            else:
                client.get(target)
            status, _, body = client.read_response()
            if status != 200 or body != target:
                failures.append((target, status))

    threading.Thread(target=accept, daemon=True).start()
    clients = [rig.client() for _ in range(6)]
    askers = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert failures == []
    assert set(seen.values()) == {1}
    assert len(seen) == 300


def test_requests_go_to_the_least_loaded_upstream(rig: Rig) -> None:
    apps = [rig.app() for _ in range(3)]
    rig.serve(*apps)
    upstreams = []
    for _ in range(2):
        for _ in range(3):
            rig.client().get()
        upstreams += [app.accept() for app in apps]  # one each
    upstreams[1].read_head()
    upstreams[1].respond()
    rig.client().get(b"/next")
    assert upstreams[1].read_head().startswith(b"GET /next")


def test_an_upstream_that_does_not_listen_is_left_out(rig: Rig) -> None:
    down, up = rig.app(), rig.app()
    rig.serve(down, up)
    down.close()
    for _ in range(6):
        client = rig.client()
        client.get()
        upstream = up.accept()
        upstream.read_head()
        upstream.respond(b"up", b"Connection: close")
        assert client.read_response()[2] == b"up"
    rig.wait(lambda: len(rig.reports("unreachable")) == 1)
