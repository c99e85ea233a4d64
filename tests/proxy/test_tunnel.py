"""Upgrades: the tunnel, its ends in every order, and what may go wrong on the way to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.proxy.rig import App, Peer, Rig, clean, target

UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: y\r\n\r\n"
)


@pytest.fixture(scope="module")
def hasty_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    before = "from rollbridge.proxy import tunnel; tunnel.HALF_CLOSED_SECONDS = 0.3; tunnel.WRITE_STALL_SECONDS = 0.3"
    with Rig(tmp_path_factory.mktemp("worker"), before=before) as rig:
        yield rig


@pytest.fixture
def hasty(hasty_rig: Rig) -> Iterator[Rig]:
    with clean(hasty_rig) as rig:
        yield rig


def tunnel(rig: Rig) -> tuple[Peer, Peer]:
    """Both ends of a fresh tunnel."""
    app = rig.app()
    rig.serve(app)
    client = rig.client(UPGRADE)
    upstream = app.accept()
    upstream.read_head()
    upstream.send(SWITCH)
    client.read_head()
    rig.wait_counts("r1", 0, 1)
    return client, upstream


def test_upgrade_is_asked_and_answered_and_bytes_flow_both_ways(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(UPGRADE)
    upstream = app.accept()
    head = upstream.read_head()
    assert b"Upgrade: websocket\r\nConnection: Upgrade\r\n" in head
    assert b"Sec-WebSocket-Key: x\r\n" in head
    rig.wait_counts("r1", 1, 0)
    upstream.send(SWITCH + b"hello")
    answer = client.read_head()
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Upgrade: websocket\r\n" in answer
    assert client.read(5) == b"hello"
    rig.wait_counts("r1", 0, 1)
    for number in range(20):
        client.send(b"\x00\xff\r\n\r\n%02d" % number)
        assert upstream.read(8) == b"\x00\xff\r\n\r\n%02d" % number
        upstream.send(b"GET / HTTP/1.1\r\n\r\n")
        assert client.read(18) == b"GET / HTTP/1.1\r\n\r\n"


def test_bytes_sent_before_the_switch_arrive_after_it(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(UPGRADE + b"early")
    upstream = app.accept()
    upstream.read_head()
    client.send(b" bird")
    assert upstream.is_quiet()
    upstream.send(SWITCH)
    assert upstream.read(10) == b"early bird"
    client.read_head()


def test_upgrade_with_a_body(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    rig.client(UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\n") + b"bodyrest")
    upstream = app.accept()
    upstream.read_head()
    assert upstream.read(4) == b"body"
    upstream.send(SWITCH)
    assert upstream.read(4) == b"rest"


def test_half_close_is_relayed_from_the_client(rig: Rig) -> None:
    client, upstream = tunnel(rig)
    client.send(b"last words")
    client.shut()
    assert upstream.read_to_end() == b"last words"
    upstream.send(b"still talking")
    assert client.read(13) == b"still talking"
    rig.wait_counts("r1", 0, 1)
    upstream.close()
    assert client.read_to_end() == b""
    rig.wait_counts("r1", 0, 0)


def test_half_close_is_relayed_from_the_application(rig: Rig) -> None:
    client, upstream = tunnel(rig)
    upstream.send(b"last words")
    upstream.shut()
    assert client.read_to_end() == b"last words"
    client.send(b"x" * 1_000_000)
    client.close()
    assert len(upstream.read_to_end()) == 1_000_000
    rig.wait_counts("r1", 0, 0)


def test_client_that_half_closed_before_the_switch_keeps_its_other_half(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client(UPGRADE + b"all I say")
    client.shut()
    upstream = app.accept()
    upstream.read_head()
    upstream.send(SWITCH)
    assert upstream.read_to_end() == b"all I say"
    upstream.send(b"answer")
    upstream.close()
    client.read_head()
    assert client.read_to_end() == b"answer"


@pytest.mark.parametrize("who", ["client", "application"])
def test_reset_of_one_side_ends_the_other(rig: Rig, who: str) -> None:
    client, upstream = tunnel(rig)
    one, other = (client, upstream) if who == "client" else (upstream, client)
    one.reset()
    assert other.is_closed()
    rig.wait_counts("r1", 0, 0)


@pytest.mark.parametrize("who", ["client", "application"])
def test_reset_with_the_other_side_not_reading(rig: Rig, who: str) -> None:
    client, upstream = tunnel(rig)
    one, other = (client, upstream) if who == "client" else (upstream, client)
    one.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        while True:
            one.send(b"x" * 100_000)
    one.reset()
    other.close()
    rig.wait_counts("r1", 0, 0)


def test_large_transfers_both_ways_at_once_with_back_pressure(rig: Rig) -> None:
    client, upstream = tunnel(rig)
    size = 8 * 1024 * 1024
    senders = [
        threading.Thread(target=peer.send, args=(bytes([index]) * size,))
        for index, peer in enumerate((client, upstream))
    ]
    for sender in senders:
        sender.start()
    readers = [threading.Thread(target=peer.read, args=(size,)) for peer in (client, upstream)]
    for reader in readers:
        reader.start()
    for thread in senders + readers:
        thread.join()
    client.close()
    assert upstream.read_to_end() == b""


def test_half_closed_tunnel_on_which_nothing_moves_is_given_up(hasty: Rig) -> None:
    client, upstream = tunnel(hasty)
    client.shut()
    assert upstream.read_to_end() == b""
    for _ in range(4):  # while something moves it lives
        upstream.send(b"x")
        assert client.read(1) == b"x"
    hasty.wait_counts("r1", 0, 0)
    assert client.is_closed()
    assert upstream.is_closed()


def test_an_end_that_takes_nothing_is_given_up(hasty: Rig) -> None:
    client, upstream = tunnel(hasty)
    with pytest.raises(ConnectionError):
        client.send(b"x" * 100_000_000)
    hasty.wait_counts("r1", 0, 0)
    upstream.close()


def test_an_idle_tunnel_stays(hasty: Rig) -> None:
    hasty.configure(idle_timeout_seconds=0.1, response_timeout_seconds=0.1)
    client, upstream = tunnel(hasty)
    app = hasty.apps[0]
    other = hasty.client()
    other.get()
    app.accept().read_head()
    assert other.read_response()[0] == 504
    assert other.is_closed()  # idle: this took longer than any timeout of the tunnel
    upstream.send(b"x")
    assert client.read(1) == b"x"


def refused(rig: Rig, answer: bytes) -> tuple[App, Peer, Peer]:
    app = rig.app()
    rig.serve(app)
    client = rig.client(UPGRADE)
    upstream = app.accept()
    upstream.read_head()
    upstream.send(answer)
    return app, client, upstream


def test_a_refused_upgrade_is_an_ordinary_answer(rig: Rig) -> None:
    _, client, upstream = refused(rig, b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
    assert client.read_response()[::2] == (404, b"no")
    client.get()
    upstream.read_head()
    upstream.respond(b"yes")
    assert client.read_response()[2] == b"yes"


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", b"HTTP/1.1 101 Switching\r\n\r\n", b"\x81\x05hello"])
def test_garbage_as_an_answer_to_an_upgrade_is_502(rig: Rig, answer: bytes) -> None:
    _, client, upstream = refused(rig, answer)
    assert client.read_response()[0] == 502
    assert upstream.is_closed()


@pytest.mark.parametrize("side", ["client", "application"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_reset_around_the_switch_harms_nobody_else(rig: Rig, side: str, moment: str) -> None:
    app = rig.app()
    rig.serve(app)
    for _ in range(5):
        client = rig.client(UPGRADE)
        upstream = app.accept()
        upstream.read_head()
        if moment == "after":
            upstream.send(SWITCH)
        (client if side == "client" else upstream).reset()
        if side == "client":
            assert upstream.is_closed()
        else:
            assert client.read_head().startswith(b"HTTP/1.1 502 ") or client.is_closed()
    rig.wait_counts("r1", 0, 0)


def test_a_tunnel_stays_with_its_release_and_new_ones_go_to_the_new(rig: Rig) -> None:
    client, upstream = tunnel(rig)
    old, new = rig.apps[0], rig.app()
    rig.route("r2", target("r1", old), target("r2", new))
    rig.wait_counts("r1", 0, 1)
    client.send(b"x")
    assert upstream.read(1) == b"x"
    other = rig.client(UPGRADE)
    fresh = new.accept()
    fresh.read_head()
    fresh.send(SWITCH)
    other.read_head()
    rig.wait_counts("r2", 0, 1)
    client.close()
    assert upstream.is_closed()
    upstream.close()
    rig.wait_counts("r1", 0, 0)


def test_upgrade_is_not_asked_of_the_application_for_http10(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    rig.client(UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert b"Upgrade" not in app.accept().read_head()
