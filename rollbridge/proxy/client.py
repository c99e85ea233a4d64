"""The client's side: reads one request after the other and answers them in order."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from rollbridge.proxy.answers import answer_bytes
from rollbridge.proxy.forward import ClientFacts
from rollbridge.proxy.head import HeadReader, RequestHead
from rollbridge.proxy.logged import log_unreadable
from rollbridge.proxy.request_fields import BadRequest
from rollbridge.proxy.stream import HIGH_WATER, READ, WRITE_STALL_SECONDS, Stream
from rollbridge.proxy.timers import NEVER

if TYPE_CHECKING:
    from rollbridge.proxy.exchange import Exchange
    from rollbridge.proxy.worker import Worker

# What a client may send ahead of being asked (pipelined requests, the body of a held request) before it is not read.
AHEAD_BYTES: Final = 64 * 1024
# A client that has announced a body and sends none of it for so long is given up: 408.
BODY_STALL_SECONDS: Final = 60.0
# One that waits for 100 Continue may wait longer, as the application may have to think; but not for ever (RFC 9110,
# section 10.1.1): most applications say 100 only when they want to read, and some never do.
EXPECT_STALL_SECONDS: Final = 300.0
# After a last answer the client's bytes are read and thrown away for so long and so many at most: closing with unread
# bytes resets the connection, and the client would lose the answer that tells it why.
LINGER_SECONDS: Final = 5.0
LINGER_BYTES: Final = 16 * 1024 * 1024


class Client(Stream):
    """One client connection. At most one exchange at a time; what comes early waits in ``buffer``."""

    __slots__ = (
        "_is_closing",
        "_is_lingering",
        "_lingered_bytes",
        "_must_linger",
        "_must_reset",
        "_reader",
        "buffer",
        "exchange",
        "facts",
        "has_ended",
        "worker",
    )

    def __init__(self, worker: Worker, sock: socket.socket, facts: ClientFacts) -> None:
        super().__init__(worker.loop, sock, READ)
        self.worker = worker
        self.facts = facts
        self.exchange: Exchange | None = None
        self.buffer = b""
        self.has_ended = False  # it sends nothing more, but may wait for answers
        self._reader = HeadReader(worker.settings.max_head_bytes, worker.known_requests)
        self._is_closing = False  # the last answer is out, or on its way
        self._must_linger = False
        self._must_reset = False
        self._is_lingering = False
        self._lingered_bytes = 0
        self._await_request()

    # What arrives.

    def received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is not None:
            if exchange.request_body is not None:
                exchange.request_received(data)
            else:
                self._keep_for_later(data)
        elif self._is_closing:
            self._discard(data)
        elif self.buffer:
            self._keep_for_later(data)
        else:
            self._read_request(data)

    def _read_request(self, data: bytes) -> None:
        was_waiting = not self._reader.buffer
        try:
            found = self._reader.feed(data)
        except BadRequest as error:
            self.answer(error.status, str(error), None, True)
            return
        if found is None:
            if self.has_ended:
                self._ended_between_requests()
            elif was_waiting and not self.out:
                self._await_head()
            return
        head, self.buffer = found
        if not self.out:
            self.deadline = NEVER
        self.worker.requests_total += 1
        exchange = self.exchange = self.worker.exchange_class(self, head)
        self.worker.dispatcher.dispatch(exchange)

    def _read_next(self) -> None:
        """Go on with what the client has sent ahead."""
        if self.is_open and self.exchange is None and not self._is_closing and self.buffer:
            self._read_request(self.take_buffer())

    def _keep_for_later(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > AHEAD_BYTES:
            self.stop_reading()

    def _discard(self, data: bytes) -> None:
        self._lingered_bytes += len(data)
        if self._lingered_bytes > LINGER_BYTES:
            self.close()

    def ended(self) -> None:
        self.has_ended = True
        exchange = self.exchange
        if self.is_write_broken:
            self.lost()
        elif exchange is not None:
            if exchange.request_body is not None:
                exchange.fail(400, "the connection ended before the request's body did")
        elif self._is_closing:
            if not self.out:
                self.close()
        elif not self.buffer:
            self._ended_between_requests()

    def _ended_between_requests(self) -> None:
        if self._reader.buffer:
            self.answer(400, "the connection ended before the request's head did", None, False)
        else:
            self._close_when_sent(must_linger=False)

    def lost(self) -> None:
        if self.exchange is not None:
            self.exchange.client_lost()
        self.close()

    def broken_while_not_read(self) -> None:
        self.lost()

    # What goes out.

    def answer(
        self,
        status: int,
        sentence: str,
        head: RequestHead | None,
        is_body_unread: bool,
        retry_after_seconds: int | None = None,
    ) -> None:
        """Answer by ourselves; ``head`` None: the request could not be read, so this is the last answer."""
        if not self.is_open:
            return
        if head is None:
            log_unreadable(self, status, sentence)
        will_close = head is None or is_body_unread or not head.keep_alive or self.worker.is_leaving
        self.write(
            answer_bytes(
                status,
                sentence,
                self.worker.http_date(),
                is_head=head is not None and head.method == b"HEAD",
                will_close=will_close,
                is_http11=head is None or head.is_http11,
                retry_after_seconds=retry_after_seconds,
            )
        )
        self.exchange_done(will_close, must_linger=True)

    def exchange_done(self, will_close: bool, *, must_linger: bool) -> None:
        """The answer is written (if not yet sent): go on with the next request, or end."""
        self.exchange = None
        if will_close:
            self._close_when_sent(must_linger=must_linger)
            return
        if self.buffer:
            if len(self.out) <= HIGH_WATER:
                self.loop.after_turn(self._read_next)
        elif self.has_ended:
            self._close_when_sent(must_linger=False)
            return
        elif not self.out:
            self._await_request()
        if not self._mask & READ:
            self.resume_reading_if_wanted()

    def close_cut_short(self, *, must_reset: bool) -> None:
        """Close after what there is, which is not all; ``must_reset``: only a reset tells the client so."""
        self.exchange = None
        self._must_reset = must_reset
        self._close_when_sent(must_linger=not must_reset)

    def _close_when_sent(self, *, must_linger: bool) -> None:
        self._is_closing = True
        self._must_linger = must_linger
        self.buffer = b""
        if not self.out:
            self._sent_all()

    def _sent_all(self) -> None:
        if not self._must_linger or self.has_ended or self.is_write_broken:
            self.close(reset=self._must_reset)
        elif not self._is_lingering:
            self._is_lingering = True
            self.shut_writing()
            self.resume_reading()
            self.loop.deadlines.set(self, self.loop.now + LINGER_SECONDS)

    def drained(self) -> None:
        if self._is_closing:
            if not self.out:
                self._sent_all()
        elif self.exchange is not None:
            if not self.out:
                self.deadline = NEVER
            self.exchange.client_drained()
        elif self.buffer:
            self.loop.after_turn(self._read_next)
        elif not self.out:
            if self._reader.buffer:
                self._await_head()
            else:
                self._await_request()

    def write_blocked(self) -> None:
        self.loop.deadlines.set(self, self.loop.now + WRITE_STALL_SECONDS)

    def write_failed(self) -> None:
        self.loop.after_turn(self.lost)

    # The request's body, as the exchange sees it.

    def take_buffer(self) -> bytes:
        buffer, self.buffer = self.buffer, b""
        return buffer

    def put_back(self, rest: bytes) -> None:
        """``rest`` came after the body: it belongs to the next request."""
        self.buffer = rest

    def body_expected(self, *, is_patient: bool) -> None:
        """The client has to send more, within a time that is longer when ``is_patient``."""
        if not self.has_unsent:
            seconds = EXPECT_STALL_SECONDS if is_patient else BODY_STALL_SECONDS
            self.loop.deadlines.set(self, self.loop.now + seconds)
        if not self._mask & READ:
            self.resume_reading_if_wanted()

    def body_paused(self) -> None:
        if not self.has_unsent:
            self.deadline = NEVER

    def body_done(self) -> None:
        if not self.has_unsent:
            self.deadline = NEVER
        if not self._mask & READ:
            self.resume_reading_if_wanted()

    def resume_reading_if_wanted(self) -> None:
        if self.is_open and not self.has_ended and len(self.buffer) <= AHEAD_BYTES:
            self.resume_reading()

    # Time, and the end. There is one deadline. While something waits to be taken by the client it is the one for that:
    # a client that reads nothing cannot put it off by what it sends.

    def _await_head(self) -> None:
        self.loop.deadlines.set(self, self.loop.now + self.worker.settings.head_timeout_seconds)

    def _await_request(self) -> None:
        deadline = self.loop.now + self.worker.settings.idle_timeout_seconds
        self.deadline = deadline
        if deadline < self.queued_for:
            self.loop.deadlines.set(self, deadline)

    def expired(self) -> None:
        exchange = self.exchange
        if self._is_closing or self.has_unsent:
            self.lost()
        elif exchange is not None:
            exchange.request_stalled()
        elif self._reader.buffer:
            self.answer(408, "the request's head did not arrive in time", None, True)
        else:
            self.close()

    def close_if_idle(self) -> None:
        """Close unless there is a request to answer, or the start of one."""
        if self.exchange is None and not (self._is_closing or self.buffer or self._reader.buffer or self.out):
            self.close()

    def close(self, *, reset: bool = False) -> None:
        if self.is_open:
            super().close(reset=reset)
            self.worker.clients.discard(self)
            self.worker.connection_closed()

    def detach(self) -> socket.socket:
        self.worker.clients.discard(self)
        self.exchange = None
        return super().detach()

    def abort(self) -> None:
        exchange, self.exchange = self.exchange, None
        self.close()
        if exchange is not None:
            exchange.client_lost()
