"""Clients and applications that leave after each single byte of what they have to say, in each manner."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from tests.proxy.rig import App, Peer, Rig

REQUESTS = {
    "get": b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n",
    "length": b"POST /%b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n123456789",
    "chunks": b"POST /%b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;a=b\r\n123\r\n6\r\n456789\r\n0\r\nT: x\r\n\r\n",
    "upgrade": b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello",
}
RESPONSES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123456789",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n6;a\r\n456789\r\n0\r\nT: x\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1",
    "no body": b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
}
ENDINGS = ("close", "reset", "shut")


def leave(peer: Peer, ending: str) -> None:
    with contextlib.suppress(OSError):
        getattr(peer, ending)()


@contextlib.contextmanager
def recording(app: App) -> Iterator[set[bytes]]:
    """The application answers; what it was asked as a whole is in the set."""
    whole: set[bytes] = set()

    def serve(peer: Peer) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                head = peer.read_head()
                name = head.split(b" ")[1][1:]
                if b"Upgrade: " in head:
                    peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
                    peer.read(5)
                    whole.add(name)
                    return
                if b"Expect: " in head:
                    peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                if b"POST " in head:
                    body = b"".join(peer.body(b"chunked" in head, 9))
                    name += b"" if body == b"123456789" else b" with " + body
                whole.add(name)
                peer.respond()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(app.accept(),), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield whole


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", REQUESTS)
def test_a_client_that_leaves_after_any_byte_has_sent_a_whole_request_or_none(rig: Rig, kind: str, ending: str) -> None:
    app = rig.app(backlog=512)
    rig.serve(app)
    before = rig.open_descriptors()
    with recording(app) as whole:
        size = len(REQUESTS[kind] % b"000")
        for end in range(size):
            client = rig.client((REQUESTS[kind] % b"%03d" % end)[:end])
            leave(client, ending)
        client = rig.client(REQUESTS[kind] % b"all")
        rig.wait(lambda: b"all" in whole)
        for one in rig.clients:
            one.close()
        rig.wait_counts("r1", 0)
        rig.wait(lambda: rig.counts.clients == 0)
    assert whole == {b"all"}
    # Idle connections to the application last a second.
    rig.wait(lambda: rig.open_descriptors() <= before)


@pytest.mark.parametrize("ending", ("close", "reset"))
@pytest.mark.parametrize("kind", RESPONSES)
def test_an_application_that_leaves_after_any_byte_has_answered_in_full_or_visibly_not(
    rig: Rig, kind: str, ending: str
) -> None:
    app = rig.app()
    rig.serve(app)
    response = RESPONSES[kind]
    head_end = response.rindex(b"\r\n\r\n", 0, len(response) - (7 if kind == "chunks" else 0)) + 4
    for end in range(len(response) + 1):
        client = rig.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")  # never sent twice
        upstream = app.accept()
        upstream.read_head()
        upstream.send(response[:end])
        leave(upstream, ending)
        head = client.read_head()
        if head.startswith(b"HTTP/1.1 103 "):
            head = client.read_head()
        status = int(head.split(b" ")[1])
        if end < head_end:
            assert status == 502, (end, head)
            continue
        assert status == int(response[:head_end].split(b"HTTP/1.1 ")[-1][:3]), (end, head)
        try:
            if kind == "chunks":
                client.read_chunked()
            elif kind != "no body":
                client.read(len(response) - head_end)
            is_whole = True
        except (EOFError, ConnectionError):
            is_whole = False
        assert is_whole == (end == len(response)), end
        client.close()
    rig.wait_counts("r1", 0)
