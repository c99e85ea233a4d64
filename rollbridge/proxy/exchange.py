"""One request and its answer: from the head that was read to the last byte that was passed on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollbridge.proxy.chunked import BadFraming
from rollbridge.proxy.forward import interim_head_bytes, response_head_bytes
from rollbridge.proxy.framing import (
    LENGTH,
    NO_BODY,
    UNTIL_CLOSE,
    Framing,
    client_framing,
    response_framing,
    response_relay,
)
from rollbridge.proxy.head import RequestHead
from rollbridge.proxy.response_head import BadResponse, ResponseHead, find_response_head
from rollbridge.proxy.sending import Sending
from rollbridge.proxy.stream import HIGH_WATER, READ_BYTES
from rollbridge.proxy.timers import NEVER
from rollbridge.proxy.tunnel import open_tunnel

if TYPE_CHECKING:
    from rollbridge.proxy.client import Client
    from rollbridge.proxy.upstream import UpstreamConnection


class Exchange(Sending):
    """Sends the request, and passes the response back as it comes."""

    __slots__ = (
        "_is_last_on_upstream",
        "_outgoing",
        "_partial",
        "_scanned",
        "_will_close",
        "first_byte_at",
        "response",
    )

    def __init__(self, client: Client, head: RequestHead) -> None:
        Sending.__init__(self, client, head)
        self.response: ResponseHead | None = None  # the final one
        self.first_byte_at: float | None = None  # of a response that does not come all at once
        self._partial = b""
        self._scanned = 0
        self._is_last_on_upstream = False
        self._will_close = False
        self._outgoing: Framing = NO_BODY

    # The response.

    def response_received(self, data: bytes) -> None:
        if self.response_body is None:
            self._has_response_bytes = True
            self._read_head(self._partial + data if self._partial else data)
            return
        relay = self.response_body
        try:
            passed_on = relay.feed(data)
        except BadFraming as error:
            self._cut_short(str(error))
            return
        client = self.client
        if passed_on:
            client.write(passed_on)
        if relay.reader.is_done:
            if len(data) == READ_BYTES and self._upstream is not None:
                self._upstream.is_doubtful = True
            self._finish(relay.reader.rest)
        elif len(client.out) > HIGH_WATER and self._upstream is not None:
            self._upstream.stop_reading()

    def _read_head(self, data: bytes) -> None:
        client = self.client
        worker = client.worker
        while True:
            try:
                found = find_response_head(data, self._scanned, worker.settings.max_head_bytes, worker.known_responses)
            except BadResponse as error:
                self.fail_upstream(f"the application's response is malformed: {error}")
                return
            if found is None:
                self._partial = data
                self._scanned = len(data)
                return
            response, end = found
            if response.status >= 200:
                self._start_response(response, data, end)
                return
            if response.status == 101:
                self._switch(response, data[end:])
                return
            if self.head.is_http11:
                client.write(interim_head_bytes(response))
                if len(client.out) > HIGH_WATER and self._upstream is not None:
                    self._upstream.stop_reading()
                if self.request_body is not None:
                    self._watch_request()
            data = data[end:]
            self._partial = b""
            self._scanned = 0
            if not data:
                return

    def _start_response(self, response: ResponseHead, data: bytes, end: int) -> None:
        self.response = response
        client = self.client
        head = self.head
        framing = response_framing(response, head.method == b"HEAD")
        outgoing = self._outgoing = client_framing(framing, head.is_http11)
        self._will_close = (
            not head.keep_alive
            or outgoing is UNTIL_CLOSE
            or self.request_body is not None  # an early answer: where the next request starts may never be known
            or client.worker.is_leaving
        )
        self._is_last_on_upstream = framing is UNTIL_CLOSE or not response.keep_alive
        upstream = self._upstream
        assert upstream is not None
        upstream.deadline = NEVER
        # More than a read holds may have arrived: nobody has seen yet that nothing comes behind the response.
        upstream.is_doubtful = framing is NO_BODY or len(data) >= READ_BYTES
        head_bytes = response_head_bytes(response, outgoing, head.is_http11, self._will_close)
        if framing is NO_BODY:
            client.write(head_bytes)
            self._finish(data[end:])
            return
        if framing is LENGTH and len(data) - end == response.content_length:
            # All of it has come at once, as most responses do.
            client.write(head_bytes + data[end:])
            self._finish(b"")
            return
        relay = response_relay(response, framing, outgoing)
        try:
            passed_on = relay.feed(data[end:])
        except BadFraming as error:
            self.fail_upstream(f"the application's response is malformed: {error}")
            return
        self.response_body = relay
        self.first_byte_at = client.loop.now
        client.write(head_bytes + passed_on)
        if relay.reader.is_done:
            self._finish(relay.reader.rest)
            return
        self._splice(relay, upstream, client, self._response_moved)
        if client.is_full:
            upstream.stop_reading()

    def _response_moved(self) -> None:
        """Some of the response's body has gone through a pipe."""
        if self.response_body is not None and self.response_body.reader.is_done:
            if self._upstream is not None:
                self._upstream.is_doubtful = True  # what may have come behind the body was not looked at
            self._finish(b"")
        elif self._upstream is not None and self.client.is_full:
            self._upstream.stop_reading()

    def client_drained(self) -> None:
        if self._upstream is not None and not self._upstream.is_reading:
            self._upstream.resume_reading()
        if self.request_body is not None and self.client.is_reading:
            self._watch_request()  # it takes what we send: now its own sending counts again

    def response_ended(self) -> None:
        """The application has closed its side."""
        if self.response_body is None:
            self.response_lost()
            return
        try:
            end = self.response_body.feed_end()
        except BadFraming as error:
            self._cut_short(str(error))
            return
        if end:
            self.client.write(end)
        self._finish(b"")

    def response_lost(self) -> None:
        """The connection to the application is gone."""
        if self.response_body is not None:
            self._cut_short("the application reset the connection")
        elif self.is_repeatable and self.is_reused and not self._has_response_bytes:
            # It had been idle, and was closed before our request reached it or without regard to it. Asked once more,
            # and as one that may not be repeated: that goes out on a fresh connection.
            self._leave_upstream(is_reusable=False)
            self.is_repeatable = False
            self.has_waited = False
            self.waits_since = self.client.loop.now
            self.client.worker.dispatcher.dispatch(self)
        else:
            self.fail_upstream("the application closed the connection without an answer")

    def response_timed_out(self) -> None:
        self.fail(504, "the application did not answer in time")

    def _finish(self, rest: bytes) -> None:
        """The response is complete. Bytes after it poison the connection: they are nobody's answer."""
        upstream = self._upstream
        assert upstream is not None
        is_request_open = self.request_body is not None
        is_spent = rest or is_request_open or self._is_last_on_upstream or upstream.out or upstream.is_write_broken
        self._leave_upstream(is_reusable=not is_spent)
        # A client that has asked for the end sends nothing more; another one may be sending already.
        self.client.exchange_done(self._will_close, must_linger=is_request_open or self.head.keep_alive)

    def _switch(self, response: ResponseHead, rest: bytes) -> None:
        """101: from here on the two connections are a tunnel."""
        upstream = self._upstream
        assert upstream is not None
        if self.head.upgrade is None or self.request_body is not None or response.upgrade is None:
            self.fail_upstream("the application switched protocols though it was not asked to")
            return
        self.response = response
        self._open_tunnel(upstream, interim_head_bytes(response) + rest)
        self._leave_upstream(is_reusable=False)  # the tunnel has taken its socket

    def _open_tunnel(self, upstream: UpstreamConnection, first: bytes) -> None:
        open_tunnel(self.client, upstream, upstream.backend.release, first)

    # Endings.

    def fail_upstream(self, why: str) -> None:
        """It is the application's fault: 502, and the operator hears of it."""
        worker = self.client.worker
        worker.report("upstream failed", {"release": self._release_key, "error": why})
        self.fail(502, why.partition(":")[0])

    def fail(self, status: int, sentence: str, retry_after_seconds: int | None = None) -> None:
        """Answer by ourselves; if the response has begun it can only be cut short."""
        if self.response_body is not None:
            self._cut_short(sentence)
            return
        is_body_unread = self.request_body is not None or (self.head.body_bytes != 0 and not self.is_sent)
        self._leave_upstream(is_reusable=False)
        self.client.answer(status, sentence, self.head, is_body_unread, retry_after_seconds)

    def request_stalled(self) -> None:
        self.fail(408, "the request's body did not arrive in time")

    def client_lost(self) -> None:
        """Nobody waits for the answer any more."""
        if self._upstream is None:
            self.client.worker.dispatcher.forget(self)
        self._leave_upstream(is_reusable=False)

    def _cut_short(self, why: str) -> None:
        """Make sure that what the client has is not taken for all there is."""
        self.client.worker.report("response cut short", {"release": self._release_key, "error": why})
        self._leave_upstream(is_reusable=False)
        self.client.close_cut_short(must_reset=self._outgoing is UNTIL_CLOSE)

    @property
    def _release_key(self) -> str:
        return "" if self.backend is None else self.backend.release.key

    def _leave_upstream(self, *, is_reusable: bool) -> None:
        upstream = self._upstream
        if upstream is None:
            return
        self._upstream = None
        release = upstream.backend.release
        if upstream.inflow is not None:
            upstream.inflow.end()
        if upstream.outflow is not None:
            upstream.outflow.end()
        if is_reusable:
            upstream.rest_idle()
        else:
            upstream.close()
        release.http -= 1
        self.client.worker.count_changed(release)
