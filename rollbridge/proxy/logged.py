"""Exchanges and tunnels that leave a line in the access log. Without one, the plain ones serve and nothing is noted."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from rollbridge.proxy.access_line import NO_UPSTREAM, access_line
from rollbridge.proxy.answers import answer_body
from rollbridge.proxy.exchange import Exchange
from rollbridge.proxy.framing import LENGTH, response_framing
from rollbridge.proxy.head import RequestHead
from rollbridge.proxy.loop import Loop
from rollbridge.proxy.response_head import ResponseHead
from rollbridge.proxy.tunnel import Tunnel, TunnelEnd, open_tunnel

if TYPE_CHECKING:
    from rollbridge.proxy.client import Client
    from rollbridge.proxy.forward import ClientFacts
    from rollbridge.proxy.upstream import Release, UpstreamConnection
    from rollbridge.proxy.worker import Worker


class LoggedExchange(Exchange):
    """Notes what the log wants to know, and writes its line when the exchange is over."""

    __slots__ = ("_began_at", "_first_byte_at", "_members", "_request_bytes", "_response_bytes", "_status")

    def __init__(self, client: Client, head: RequestHead) -> None:
        # Not super(): it costs a tenth of a microsecond each time in Python 3.11, and this is where the log's cost is.
        Exchange.__init__(self, client, head)
        self._began_at = client.loop.now
        self._first_byte_at: float | None = None
        self._status: int | None = None
        self._members = NO_UPSTREAM
        self._request_bytes = 0
        self._response_bytes = 0

    def send(self, upstream: UpstreamConnection, *, is_reused: bool) -> None:
        self._members = upstream.backend.members
        Exchange.send(self, upstream, is_reused=is_reused)

    def _request_done(self) -> None:
        assert self.request_body is not None
        self._request_bytes = self.request_body.reader.passed
        super()._request_done()

    def _start_response(self, response: ResponseHead, data: bytes, end: int) -> None:
        self._status = response.status
        self._first_byte_at = self.client.loop.now
        length = response.content_length
        if length and response_framing(response, self.head.method == b"HEAD") is LENGTH:
            self._response_bytes = min(len(data) - end, length)
        Exchange._start_response(self, response, data, end)

    def _finish(self, rest: bytes) -> None:
        self._log(is_complete=True)
        Exchange._finish(self, rest)

    def fail(self, status: int, sentence: str, retry_after_seconds: int | None = None) -> None:
        if self.response_body is None:
            self._status = status
            self._first_byte_at = self.client.loop.now
            self._response_bytes = 0 if self.head.method == b"HEAD" else len(answer_body(status, sentence))
            self._log(is_complete=True)
        super().fail(status, sentence, retry_after_seconds)

    def _cut_short(self, why: str) -> None:
        self._log(is_complete=False)
        super()._cut_short(why)

    def client_lost(self) -> None:
        self._log(is_complete=False)
        super().client_lost()

    def _open_tunnel(self, upstream: UpstreamConnection, release: Release, first: bytes) -> None:
        self._status = 101
        self._first_byte_at = self.client.loop.now
        facts = self.client.facts
        worker = self.client.worker
        tunnel = open_tunnel(self.client, upstream, release, first, CountedEnd)
        near, far = tunnel.ends
        assert isinstance(near, CountedEnd)
        assert isinstance(far, CountedEnd)

        def closed() -> None:
            self._write_line(worker, facts, near.received_bytes, far.received_bytes, is_complete=True)

        tunnel.on_closed = closed

    def _log(self, *, is_complete: bool) -> None:
        client = self.client
        request_bytes = self._request_bytes if self.request_body is None else self.request_body.reader.passed
        response_bytes = self._response_bytes if self.response_body is None else self.response_body.reader.passed
        if not is_complete and self.response_body is not None:
            response_bytes = max(0, response_bytes - len(client.out))
        self._write_line(client.worker, client.facts, request_bytes, response_bytes, is_complete=is_complete)

    def _write_line(
        self, worker: Worker, facts: ClientFacts, request_bytes: int, response_bytes: int, *, is_complete: bool
    ) -> None:
        log = worker.access_log
        if log is None:
            return
        head = self.head
        if head.forwarded and facts.is_trusted:
            client = log.client(facts.address, head.forwarded)
        else:
            client = facts.address.decode("ascii")
        began_at = self._began_at
        log.add(
            access_line(
                log.timestamp(began_at),
                client,
                head,
                self._status,
                request_bytes,
                response_bytes,
                self._members,
                None if self._first_byte_at is None else self._first_byte_at - began_at,
                worker.loop.now - began_at,
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
        at = log.timestamp(client.loop.now)
        log.add(access_line(at, client.facts.address.decode(), None, status, 0, size, NO_UPSTREAM, 0.0, 0.0, True))
