"""Where requests go as routes change, and how they wait when there is nowhere to go."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rollbridge.proxy.messages import Ack, Target, Upstream
from tests.proxy.rig import App, Peer, Rig, free_port, target


def down(key: str, port: int, *, is_up: bool = True) -> Target:
    return Target(key, (Upstream("127.0.0.1", port, is_up),))


def answer(app: App, body: bytes) -> Peer:
    upstream = app.accept()
    upstream.read_head()
    upstream.respond(body)
    return upstream


def test_without_an_active_release_503_says_when_to_come_back(rig: Rig) -> None:
    rig.route(None, reason="stopped")
    client = rig.client()
    for _ in range(2):
        client.get()
        status, head, body = client.read_response()
        assert status == 503
        assert b"Retry-After: " in head
        assert b"Connection: close" not in head
        assert body.count(b"\n") == 1
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
    assert b"Connection: close" in client.read_response()[1]


def test_pipelined_requests_to_nowhere_are_all_answered(rig: Rig) -> None:
    rig.route(None, reason="none")
    count = 2000
    client = rig.client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * count)
    for _ in range(count):
        assert client.read_response()[0] == 503


def test_a_request_waits_for_the_application_to_listen_again(rig: Rig) -> None:
    port = free_port()
    rig.route("r1", down("r1", port))
    clients = [rig.client() for _ in range(5)]
    for number, client in enumerate(clients[:4]):
        client.get(b"/%d" % number)
        rig.wait(lambda expected=number + 1: rig.counts.held == expected)
    clients[4].send(b"POST /4 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    rig.wait(lambda: rig.counts.held == 5)
    rig.wait_counts("r1", 0)  # waiting is not in flight
    app = rig.app(port)
    for number in range(5):
        upstream = app.accept()
        assert upstream.read_head().split(b" ")[1] == b"/%d" % number
        if number == 4:
            assert upstream.read(5) == b"hello"
        upstream.respond(b"%d" % number)
    for number, client in enumerate(clients):
        assert client.read_response()[2] == b"%d" % number


def test_waiting_ends_with_502(rig: Rig) -> None:
    rig.configure(hold_timeout_seconds=0.2)
    rig.route("r1", down("r1", free_port()))
    client = rig.client()
    client.get()
    began = time.monotonic()
    status, head, _ = client.read_response()
    assert status == 502
    assert b"Retry-After: " in head
    assert time.monotonic() - began < 5
    rig.configure(hold_timeout_seconds=0)
    client.get()
    assert client.read_response()[0] == 502


def test_an_upstream_known_to_be_down_is_not_asked_even_if_somebody_listens_there(rig: Rig) -> None:
    stranger = rig.app()
    rig.route("r1", down("r1", stranger.port, is_up=False))
    client = rig.client()
    client.get()
    rig.wait(lambda: rig.counts.held == 1)
    assert not stranger.has_connection()
    rig.serve(stranger)
    answer(stranger, b"up")
    assert client.read_response()[2] == b"up"


def test_waiting_requests_follow_the_route_to_a_new_release(rig: Rig) -> None:
    app = rig.app()
    rig.route("r1", down("r1", free_port()))
    client = rig.client()
    client.get()
    rig.wait(lambda: rig.counts.held == 1)
    rig.route("r2", down("r1", free_port()), target("r2", app))
    answer(app, b"two")
    assert client.read_response()[2] == b"two"


def test_waiting_requests_are_told_when_the_release_is_stopped(rig: Rig) -> None:
    rig.route("r1", down("r1", free_port()))
    client = rig.client()
    client.get()
    rig.wait(lambda: rig.counts.held == 1)
    rig.route(None, reason="stopped")
    assert client.read_response()[0] == 503


def test_a_route_may_ask_to_hold_while_nothing_is_active(rig: Rig) -> None:
    app = rig.app()
    rig.route(None, hold=True)
    client = rig.client()
    client.get()
    rig.wait(lambda: rig.counts.held == 1)
    rig.serve(app)
    answer(app, b"here")
    assert client.read_response()[2] == b"here"


def test_a_client_that_vanishes_while_it_waits_is_forgotten(rig: Rig) -> None:
    port = free_port()
    rig.route("r1", down("r1", port))
    client, other = rig.client(), rig.client()
    client.get(b"/gone")
    rig.wait(lambda: rig.counts.held == 1)
    other.get(b"/stays")
    rig.wait(lambda: rig.counts.held == 2)
    client.reset()
    rig.wait(lambda: rig.counts.held == 1)
    app = rig.app(port)
    upstream = app.accept()
    assert upstream.read_head().startswith(b"GET /stays ")
    upstream.respond()
    assert other.read_response()[0] == 200


def test_those_that_wait_are_bounded_in_number_and_size(tmp_path: Path) -> None:
    before = "from rollbridge.proxy import dispatcher as d; d.MAX_HELD = 2; d.MAX_HELD_BYTES = 30000"
    with Rig(tmp_path, before=before) as rig:
        port = free_port()
        rig.route("r1", down("r1", port))
        clients = [rig.client() for _ in range(4)]
        clients[3].get(b"/" + b"a" * 40_000)
        assert clients[3].read_response()[0] == 503
        clients[3].get(b"/", b"X-Forwarded-For: " + b"a" * 40_000)
        assert clients[3].read_response()[0] == 503
        for number in range(2):
            clients[number].get()
            rig.wait(lambda expected=number + 1: rig.counts.held == expected)
        clients[2].get()
        status, head, _ = clients[2].read_response()
        assert status == 503
        assert b"Retry-After: 1\r\n" in head
        app = rig.app(port)
        for number in range(2):
            answer(app, b"%d" % number)
        for number in range(2):
            assert clients[number].read_response()[2] == b"%d" % number
        rig.check_clean()


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose listener answers no handshake any more: connecting to it neither succeeds nor fails."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_request_that_is_still_connecting_follows_the_route(rig: Rig) -> None:
    app = rig.app()
    with full_backlog() as port:
        rig.route("r1", down("r1", port))
        client = rig.client()
        client.get()
        rig.wait(lambda: rig.counts.clients == 1 and rig.counts.requests_total > 0)
        rig.route("r2", down("r1", port), target("r2", app))
        answer(app, b"two")
        assert client.read_response()[2] == b"two"
        rig.wait_counts("r1", 0)


def test_a_client_that_vanishes_while_connecting_is_forgotten(rig: Rig) -> None:
    with full_backlog() as port:
        rig.route("r1", down("r1", port))
        client = rig.client()
        client.get()
        rig.wait(lambda: rig.counts.clients == 1)
        client.reset()
        rig.wait(lambda: rig.counts.clients == 0)


def test_nothing_new_goes_to_the_old_release_after_the_acknowledgement(rig: Rig) -> None:
    old, new = rig.app(), rig.app()
    rig.route("old", target("old", old))
    client, other = rig.client(), rig.client()
    client.get(b"/1")
    idle = old.accept()
    idle.read_head()
    idle.respond(b"old")
    client.read_response()
    other.get(b"/slow")
    slow = idle
    assert slow.read_head().startswith(b"GET /slow")
    client.get(b"/idle")
    answer(old, b"old")
    assert client.read_response()[2] == b"old"
    rig.wait_counts("old", 1)
    generation = rig.route("new", target("old", old), target("new", new))
    assert rig.wait_message(Ack).generation == generation
    assert old.peers[-1].is_closed()  # idle connections of a retired release are closed at once
    client.get(b"/2")  # a keep-alive client simply goes on
    answer(new, b"new")
    assert client.read_response()[2] == b"new"
    assert not old.has_connection()
    rig.wait_counts("old", 1)
    slow.respond(b"finished")
    assert other.read_response()[2] == b"finished"
    rig.wait_counts("old", 0)
    assert slow.is_closed()
    other.get(b"/3")
    rig.wait_counts("new", 1)
    assert not old.has_connection()


def test_a_retry_after_the_switch_goes_to_the_new_release(rig: Rig) -> None:
    old, new = rig.app(), rig.app()
    rig.route("old", target("old", old))
    client = rig.client()
    client.get()
    upstream = answer(old, b"old")
    client.read_response()
    client.get(b"/again")
    upstream.read_head()
    rig.route("new", target("old", old), target("new", new))
    upstream.close()
    answer(new, b"new")
    assert client.read_response()[2] == b"new"


def test_back_to_a_release_that_still_drains(rig: Rig) -> None:
    old, new = rig.app(), rig.app()
    rig.route("old", target("old", old))
    client = rig.client()
    client.get()
    slow = old.accept()
    slow.read_head()
    rig.route("new", target("old", old), target("new", new))
    rig.route("old", target("old", old), target("new", new))
    rig.wait_counts("old", 1)
    slow.respond(b"one")
    assert client.read_response()[2] == b"one"
    client.get()
    slow.read_head()  # on the same connection: it is active again
    slow.respond(b"two")
    assert client.read_response()[2] == b"two"


def test_a_release_that_has_left_the_route_is_counted_until_its_last_request_ends(rig: Rig) -> None:
    old, new = rig.app(), rig.app()
    rig.route("old", target("old", old))
    client = rig.client()
    client.get()
    slow = old.accept()
    slow.read_head()
    rig.route("new", target("new", new))
    rig.wait_counts("old", 1)
    slow.respond(b"done")
    assert client.read_response()[2] == b"done"
    rig.wait(lambda: "old" not in rig.counts.releases)


def test_switching_to_and_fro_under_load_lose_nothing(rig: Rig) -> None:
    apps = [rig.app(backlog=256), rig.app(backlog=256)]
    rig.serve(apps[0], key="0")
    failures: list[int] = []
    is_over = threading.Event()

    def serve(app: App) -> None:
        def one(peer: Peer) -> None:
            with contextlib.suppress(EOFError, OSError):
                while True:
                    peer.read_head()
                    peer.respond(b"ok")

        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(app.accept(),), daemon=True).start()

    def ask(client: Peer) -> None:
        while not is_over.is_set():
            client.get()
            if client.read_response()[0] != 200:
                failures.append(1)

    for app in apps:
        threading.Thread(target=serve, args=(app,), daemon=True).start()
    askers = [threading.Thread(target=ask, args=(rig.client(),)) for _ in range(4)]
    for asker in askers:
        asker.start()
    for turn in range(200):
        rig.route(str(turn % 2), target("0", apps[0]), target("1", apps[1]))
    is_over.set()
    for asker in askers:
        asker.join()
    assert failures == []
    rig.wait_counts("0", 0)
    rig.wait_counts("1", 0)


def test_a_route_to_a_release_without_upstreams_holds(rig: Rig) -> None:
    rig.configure(hold_timeout_seconds=0.1)
    rig.route("r1", Target("r1", ()))
    client = rig.client()
    client.get()
    assert client.read_response()[0] == 502
