"""The request's side of an exchange: from the head that was read to the last byte of its body that was passed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rollbridge.proxy.chunked import BadFraming
from rollbridge.proxy.forward import request_head_bytes
from rollbridge.proxy.framing import BodyRelay, LengthReader, request_relay
from rollbridge.proxy.head import RequestHead
from rollbridge.proxy.splice import SPLICE_BYTES, Splice
from rollbridge.proxy.stream import Stream
from rollbridge.proxy.timers import NEVER

if TYPE_CHECKING:
    from rollbridge.proxy.client import Client
    from rollbridge.proxy.upstream import Backend, UpstreamConnection

# Safe methods (RFC 9110, section 9.2.1) without a body may be sent again. PUT and DELETE are idempotent, but an
# application that was told twice may well answer differently; TRACE is nobody's business.
_REPEATABLE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})


class Sending:
    """Waits (held or connecting) until ``send``; then passes the request on as it comes. Exchange adds the answer."""

    __slots__ = (
        "_has_response_bytes",
        "_upstream",
        "backend",
        "began_at",
        "client",
        "has_waited",
        "head",
        "is_repeatable",
        "is_reused",
        "number",
        "request_body",
        "request_bytes",
        "response_body",
        "waits_since",
    )

    def __init__(self, client: Client, head: RequestHead) -> None:
        self.client = client
        self.head = head
        self.is_repeatable = head.method in _REPEATABLE and head.body_bytes == 0 and head.upgrade is None
        self.number = client.worker.requests_total  # its place among all requests
        self.began_at = self.waits_since = client.loop.now
        self.has_waited = False
        self.is_reused = False
        self.backend: Backend | None = None  # the latest that it was sent to
        self.request_body: BodyRelay | None = None  # set while the rest of a body is expected and passed on
        self.request_bytes = 0  # of a body that is passed on and complete
        self.response_body: BodyRelay | None = None  # set from the final response head on, if it has a body
        self._has_response_bytes = False
        self._upstream: UpstreamConnection | None = None

    def fail(self, status: int, sentence: str, retry_after_seconds: int | None = None) -> None:
        """Answer by ourselves; if the response has begun it can only be cut short."""
        raise NotImplementedError

    @property
    def is_sent(self) -> bool:
        return self._upstream is not None

    def held_bytes(self) -> int:
        """About what it keeps in memory while it waits."""
        head = self.head
        told = sum(len(value) for _, value in head.forwarded) + len(head.via or b"")
        return 1024 + len(head.target) + len(head.lines) + told + len(self.client.buffer)

    def send(self, upstream: UpstreamConnection, *, is_reused: bool) -> None:
        """Send the request, or what there is of it; from here on it counts as in flight on the release.

        ``upstream`` is this exchange's already.
        """
        client = self.client
        self._upstream = upstream
        self.is_reused = is_reused
        backend = self.backend = upstream.backend
        release = backend.release
        release.http += 1
        client.worker.count_changed(release)
        data = request_head_bytes(self.head, client.facts)
        if self.head.body_bytes:
            self.request_body = request_relay(self.head.body_bytes)
            buffered = client.take_buffer()
            try:
                body = self._pass_request(buffered) if buffered else b""
            except BadFraming as error:
                self.fail(400, f"the request's body is malformed: {error}")
                return
            upstream.write(data + body)
            if self.request_body is not None:
                self._splice(self.request_body, client, upstream, self._request_moved)
            self._watch_request()
        else:
            upstream.write(data)
            self._expect_response()

    def request_received(self, data: bytes) -> None:
        """More of the request's body; only called while ``request_body`` is set."""
        try:
            data = self._pass_request(data)
        except BadFraming as error:
            self.fail(400, f"the request's body is malformed: {error}")
            return
        if self._upstream is not None and data:
            self._upstream.write(data)
        self._watch_request()

    def _pass_request(self, data: bytes) -> bytes:
        relay = self.request_body
        assert relay is not None
        data = relay.feed(data)
        if relay.reader.is_done:
            self._request_done()
            self.client.put_back(relay.reader.rest)
        return data

    def _watch_request(self) -> None:
        """The client must go on sending, unless it has sent all or we are the ones who wait."""
        client = self.client
        body = self.request_body
        if body is None:
            client.body_done()
            self._expect_response()
        elif client.has_ended:
            self.fail(400, "the connection ended before the request's body did")
        elif self._upstream is not None and self._upstream.is_full:
            client.stop_reading()
            client.body_paused()
            self._expect_response()
        else:
            is_patient = self.head.expects_continue and not self._has_response_bytes and not body.reader.passed
            client.body_expected(is_patient=is_patient)
            if is_patient:
                self._expect_response()
            elif self.head.expects_continue and self._upstream is not None:
                self._upstream.deadline = NEVER

    def _request_moved(self) -> None:
        """Some of the request's body has gone through a pipe."""
        assert self.request_body is not None
        if self.request_body.reader.is_done:
            self._request_done()
        self._watch_request()

    def _request_done(self) -> None:
        assert self.request_body is not None
        self.request_bytes = self.request_body.reader.passed
        self.request_body = None
        if self.client.inflow is not None:
            self.client.inflow.end()

    def _splice(self, relay: BodyRelay, source: Stream, sink: Stream, on_moved: Callable[[], None]) -> None:
        """Let the rest of a large body go through a pipe."""
        if isinstance(relay.reader, LengthReader) and relay.reader.left >= SPLICE_BYTES:
            Splice(self.client.worker.pipes, source, sink, relay.reader, on_moved)

    def _expect_response(self) -> None:
        """From here on it is the application's turn: to answer, or at least to read on."""
        timeout = self.client.worker.settings.response_timeout_seconds
        if timeout and self._upstream is not None and self.response_body is None:
            self._upstream.loop.deadlines.set(self._upstream, self._upstream.loop.now + timeout)

    def upstream_drained(self) -> None:
        if self.request_body is not None and not self.client.is_reading and not self.client.has_ended:
            if self._upstream is not None:
                self._upstream.deadline = NEVER
            self.client.resume_reading()
            self._watch_request()
