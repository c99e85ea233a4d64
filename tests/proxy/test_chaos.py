"""Clients and applications that do anything at any moment: the worker survives, and ends with nothing in its hands."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time

import pytest

from rollbridge.proxy.messages import Route, Target, Upstream, encode
from tests.proxy.rig import App, Peer, Rig, free_port, target

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nT: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\nExpect: 100-continue\r\n\r\n" + b"x" * 300_000,
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nfirst",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 20,
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n" + b"x" * 500_000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloEXTRA",
    b"garbage",
    b"",
]


def act(choose: random.Random, peer: Peer, data: bytes) -> None:
    """Send some or all of ``data`` in some pieces, read something or nothing, and leave in some manner."""
    peer.sock.settimeout(0.05)
    with contextlib.suppress(OSError, EOFError):
        data = data[: choose.choice([len(data), len(data), len(data), choose.randint(0, len(data))])]
        while data:
            size = choose.choice([len(data), choose.randint(1, 50)])
            peer.send(data[:size])
            data = data[size:] if size > 50 or len(data) < 500 else b""
        for _ in range(choose.randint(0, 3)):
            peer.more()
        if choose.random() < 0.3:
            peer.shut()
            peer.more()
    with contextlib.suppress(OSError):
        (peer.reset if choose.random() < 0.4 else peer.close)()


def application(seed: int, app: App) -> None:
    choose = random.Random(seed)
    with contextlib.suppress(OSError):
        while True:
            sock, _ = app.sock.accept()
            peer = Peer(sock)
            peer.sock.settimeout(0.05)
            with contextlib.suppress(OSError, EOFError):
                if choose.random() < 0.9:
                    peer.read_head()
                if choose.random() < 0.5:
                    peer.respond(b"fine")
                    peer.read_head()
            act(choose, peer, choose.choice(RESPONSES))


def client(seed: int, port: int, until: float) -> None:
    choose = random.Random(seed)
    while time.monotonic() < until:
        peer = Peer(socket.create_connection(("127.0.0.1", port), timeout=5))
        act(choose, peer, choose.choice(REQUESTS))


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_left_after_everything_has_gone_wrong(rig: Rig, seed: int) -> None:
    rig.configure(
        hold_timeout_seconds=0.1, response_timeout_seconds=0.2, head_timeout_seconds=0.2, idle_timeout_seconds=0.2
    )
    apps = [rig.app(backlog=256) for _ in range(2)]
    routes = [
        (target("r1", *apps),),
        (target("r1", apps[0]), target("r2", apps[1])),
        (Target("r1", (Upstream("127.0.0.1", free_port()), Upstream("127.0.0.1", apps[0].port))),),
    ]
    rig.route("r1", *routes[0])
    before = rig.open_descriptors()
    until = time.monotonic() + 3
    threads = [threading.Thread(target=client, args=(seed * 100 + number, rig.port, until)) for number in range(6)]
    threads += [
        threading.Thread(target=application, args=(seed * 100 + number, app), daemon=True)
        for number, app in enumerate(apps * 2)
    ]
    for thread in threads:
        thread.start()
    choose = random.Random(seed)
    while time.monotonic() < until:
        targets = choose.choice(routes)
        active = choose.choice([None, *(one.release_key for one in targets)])
        rig.route(active, *targets, hold=choose.random() < 0.5)
        rig.link.sendall(
            b"nonsense\n" if choose.random() < 0.01 else encode(Route(rig.generation, active, "", targets))
        )
        threading.Event().wait(0.02)
    for thread in threads[:6]:
        thread.join()
    rig.check_clean()
    assert rig.counts.requests_total > 200
    rig.wait(lambda: rig.open_descriptors() <= before)
