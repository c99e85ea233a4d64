"""Exchanges and tunnels that leave a line in the access log. Without one, the plain ones serve and nothing is noted."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from rollbridge.proxy.access_line import NO_UPSTREAM
from rollbridge.proxy.answers import answer_body
from rollbridge.proxy.exchange import Exchange
from rollbridge.proxy.framing import LENGTH
from rollbridge.proxy.loop import Loop
from rollbridge.proxy.tunnel import Tunnel, TunnelEnd, open_tunnel

if TYPE_CHECKING:
    from rollbridge.proxy.client import Client
    from rollbridge.proxy.upstream import UpstreamConnection


class LoggedExchange(Exchange):
    """Writes its line when the exchange is over; what is in it, the exchange knows anyway."""

    __slots__ = ()

    def _finish(self, rest: bytes) -> None:
        response, body = self.response, self.response_body
        assert response is not None
        if body is not None:
            size = body.reader.passed
        else:
            # It has come at once, or there is none.
            self.first_byte_at = self.client.loop.now
            size = (response.content_length or 0) if self._outgoing is LENGTH else 0
        self._log(response.status, size, True)
        # Not super(): it costs a tenth of a microsecond in Python 3.11, and every request comes by here.
        Exchange._finish(self, rest)

    def fail(self, status: int, sentence: str, retry_after_seconds: int | None = None) -> None:
        if self.response_body is None:
            self.first_byte_at = self.client.loop.now
            size = 0 if self.head.method == b"HEAD" else len(answer_body(status, sentence))
            self._log(status, size, True)
        super().fail(status, sentence, retry_after_seconds)

    def _cut_short(self, why: str) -> None:
        self._log_cut()
        super()._cut_short(why)

    def client_lost(self) -> None:
        self._log_cut()
        super().client_lost()

    def _open_tunnel(self, upstream: UpstreamConnection, first: bytes) -> None:
        self.first_byte_at = self.client.loop.now
        tunnel = open_tunnel(self.client, upstream, upstream.backend.release, first, CountedEnd)
        near, far = tunnel.ends
        assert isinstance(near, CountedEnd)
        assert isinstance(far, CountedEnd)

        def closed() -> None:
            self.request_bytes = near.received_bytes
            self._log(101, far.received_bytes, True)

        tunnel.on_closed = closed

    def _log_cut(self) -> None:
        """What the client got of a response that is not whole, or nothing."""
        status = None if self.response is None else self.response.status
        body = self.response_body
        self._log(status, 0 if body is None else max(0, body.reader.passed - len(self.client.out)), False)

    def _log(self, status: int | None, response_bytes: int, is_complete: bool) -> None:
        client = self.client
        log = client.worker.access_log
        if log is None:
            return
        head = self.head
        facts = client.facts
        if head.forwarded and facts.is_trusted:
            name = log.client(facts.address, head.forwarded)
        else:
            name = facts.address.decode("ascii")
        began_at = self.began_at
        log.note(
            (
                began_at,
                name,
                (head.method, head.target, head.is_http11),
                status,
                self.request_bytes if self.request_body is None else self.request_body.reader.passed,
                response_bytes,
                NO_UPSTREAM if self.backend is None else self.backend.members,
                None if self.first_byte_at is None else self.first_byte_at - began_at,
                client.loop.now - began_at,
                is_complete,
            )
        )


class CountedEnd(TunnelEnd):
    """One side of a tunnel whose bytes are counted."""

    __slots__ = ("received_bytes",)

    def __init__(self, loop: Loop, sock: socket.socket, tunnel: Tunnel) -> None:
        self.received_bytes = 0
        super().__init__(loop, sock, tunnel)

    def received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        super().received(data)


def log_unreadable(client: Client, status: int, sentence: str) -> None:
    """A line for what could not be read as a request, and was answered all the same."""
    log = client.worker.access_log
    if log is not None:
        size = len(answer_body(status, sentence))
        name = client.facts.address.decode("ascii")
        log.note((client.loop.now, name, None, status, 0, size, NO_UPSTREAM, 0.0, 0.0, True))
