"""The application's side: releases, their upstreams, and the connections to them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING, Final, TypeAlias

from rollbridge.proxy.access_line import upstream_members
from rollbridge.proxy.loop import Loop
from rollbridge.proxy.routing import pick_upstream
from rollbridge.proxy.stream import READ, WRITE, Stream
from rollbridge.proxy.timers import NEVER

if TYPE_CHECKING:
    from rollbridge.proxy.dispatcher import Dispatcher
    from rollbridge.proxy.exchange import Exchange

# An idle connection is closed by us before the application closes it, else a request may run into the closing.
# gunicorn keeps idle connections for 2 seconds by default, uvicorn and node for 5: half of the shortest.
IDLE_SECONDS: Final = 1.0
# Requests that may not be repeated never take an idle connection, and each leaves one: a flood of them would hold as
# many as arrive in a second. Twice the 64 that a busy keep-alive load leaves idle at any one time.
MAX_IDLE: Final = 128
# A connection that is not made by then will not be; the request goes to another upstream or waits.
CONNECT_SECONDS: Final = 2.0
# When to try an upstream again that does not accept connections: soon, as a restarted process listens within a second
# or so; then less often, as it is no use to hammer one that is down.
FIRST_RETRY_SECONDS: Final = 0.05
MAX_RETRY_SECONDS: Final = 0.5
RETRY_FACTOR: Final = 1.5


SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


class Release:
    """One release of the route, or one that has left it and still answers something."""

    __slots__ = ("backends", "http", "is_active", "key", "turn", "websocket")

    def __init__(self, key: str) -> None:
        self.key = key
        self.backends: list[Backend] = []
        self.is_active = False
        self.http = 0  # requests sent and not yet answered in full
        self.websocket = 0  # tunnels
        self.turn = 0

    def pick(self, now: float) -> Backend | None:
        """The upstream for the next request; None when none takes one now."""
        backends = self.backends
        if len(backends) == 1:
            backend = backends[0]
            return backend if backend.is_available(now) else None
        self.turn += 1
        index = pick_upstream([one.load if one.is_available(now) else None for one in backends], self.turn)
        return None if index is None else backends[index]

    def next_try(self) -> float:
        """When an upstream is to be tried again that is left alone now; NEVER when none is."""
        return min((one.not_before for one in self.backends if one.is_up and not one.connecting), default=NEVER)


class Backend:
    """One upstream of a release: where it listens, how it fares, its idle connections."""

    __slots__ = (
        "address",
        "connecting",
        "family",
        "idle",
        "is_suspect",
        "is_up",
        "load",
        "members",
        "not_before",
        "release",
        "remote",
        "retry_seconds",
    )

    def __init__(self, release: Release, address: tuple[str, int]) -> None:
        self.release = release
        self.address = address  # as it was told; the host may be a name
        self.family, self.remote = look_up(address)
        self.is_up = True  # as the supervisor sees it
        self.is_suspect = False  # the last connection attempt failed
        self.not_before = 0.0
        self.retry_seconds = FIRST_RETRY_SECONDS
        self.members = upstream_members(release.key, address)  # in the access log
        self.load = 0  # connections in use or being made
        self.connecting = 0
        self.idle: list[UpstreamConnection] = []

    def is_available(self, now: float) -> bool:
        # A suspect is tried by one request at a time.
        return self.is_up and (not self.is_suspect or (now >= self.not_before and not self.connecting))

    def connect_failed(self, now: float) -> None:
        if now >= self.not_before:
            self.not_before = now + self.retry_seconds
            self.retry_seconds = min(self.retry_seconds * RETRY_FACTOR, MAX_RETRY_SECONDS)
        self.is_suspect = True

    def trust(self) -> None:
        """It accepts connections, or may be expected to."""
        self.is_suspect = False
        self.not_before = 0.0
        self.retry_seconds = FIRST_RETRY_SECONDS

    def close_idle(self) -> None:
        for connection in list(self.idle):
            connection.close()


class UpstreamConnection(Stream):
    """A connection to one upstream: being made, serving one exchange, or idle in its backend's pool."""

    __slots__ = ("_is_counted", "backend", "dispatcher", "exchange", "is_connecting", "is_doubtful")

    def __init__(self, loop: Loop, sock: socket.socket, mask: int, backend: Backend, dispatcher: Dispatcher) -> None:
        super().__init__(loop, sock, mask)
        self.backend = backend
        self.dispatcher = dispatcher
        self.exchange: Exchange | None = None
        self.is_connecting = mask & WRITE != 0
        self.is_doubtful = False  # something may have come behind its last response that nobody has seen yet
        self._is_counted = True
        backend.load += 1
        if self.is_connecting:
            backend.connecting += 1
            loop.handlers[self.fd] = self._on_connect_event

    def _on_connect_event(self, mask: int) -> None:
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._connect_failed(os.strerror(error))
        elif mask & WRITE:
            self._connected()

    def take(self, exchange: Exchange) -> None:
        """Leave the pool for an exchange."""
        self.exchange = exchange
        self.deadline = NEVER
        self._is_counted = True
        self.backend.load += 1

    def rest_idle(self) -> None:
        """Go back to the pool, or close when the release takes no more requests."""
        backend = self.backend
        self.exchange = None
        if not backend.release.is_active or not self.is_reading or len(backend.idle) >= MAX_IDLE:
            self.close()
            return
        self._is_counted = False
        backend.load -= 1
        backend.idle.append(self)
        deadline = self.loop.now + IDLE_SECONDS
        self.deadline = deadline
        if deadline < self.queued_for:
            self.loop.deadlines.set(self, deadline)

    def is_silent(self) -> bool:
        """Whether nothing has arrived on the idle connection, asked of the kernel."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self, *, reset: bool = False) -> None:
        if self.is_open:
            self._leave_backend()
            super().close(reset=reset)

    def detach(self) -> socket.socket:
        self._leave_backend()
        return super().detach()

    def _leave_backend(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self.backend.load -= 1
        elif self in self.backend.idle:
            self.backend.idle.remove(self)
        if self.is_connecting:
            self.is_connecting = False
            self.backend.connecting -= 1
        self.exchange = None

    def received(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.response_received(data)
        else:
            self.close()  # nobody asked: whatever it is, it is nobody's answer

    def ended(self) -> None:
        if self.exchange is not None:
            self.exchange.response_ended()
        else:
            self.close()

    def lost(self) -> None:
        if self.exchange is not None:
            self.exchange.response_lost()
        else:
            self.close()

    def drained(self) -> None:
        if self.exchange is not None:
            self.exchange.upstream_drained()

    def write_failed(self) -> None:
        self.loop.after_turn(self.drained)

    def expired(self) -> None:
        if self.is_connecting:
            self._connect_failed("the connection attempt timed out")
        elif self.exchange is not None:
            self.exchange.response_timed_out()
        else:
            self.close()

    def abort(self) -> None:
        exchange = self.exchange
        self.close()
        if exchange is not None:
            exchange.client.abort()

    def _connected(self) -> None:
        self.is_connecting = False
        self.backend.connecting -= 1
        self.deadline = NEVER
        self.loop.handlers[self.fd] = self.on_event
        self.want(READ)
        exchange, self.exchange = self.exchange, None
        self.dispatcher.connected(self, exchange)

    def _connect_failed(self, why: str) -> None:
        exchange = self.exchange
        self.close()
        self.dispatcher.connect_failed(self.backend, exchange, why)


def look_up(address: tuple[str, int]) -> tuple[int, SocketAddress]:
    """Family and socket address of a host, which may be a name, and a port; of a name that is not found as they are.

    Once for each upstream: to ask for each connection would take a part of a millisecond, and hold up everybody for
    as long as a name server takes. Whoever is not found is asked for again with each connection, which fails.
    """
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            return family, socket.getaddrinfo(*address, family, socket.SOCK_STREAM)[0][4]
    return socket.AF_INET, address


def open_connection(loop: Loop, backend: Backend, dispatcher: Dispatcher) -> UpstreamConnection:
    """Start to connect; the connection is often made on return. Raises OSError when it cannot be."""
    sock = socket.socket(backend.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = sock.connect_ex(backend.remote)
        if error == errno.EINPROGRESS:
            # Within one machine the handshake is over by now: asking again saves a turn of the loop.
            error = sock.connect_ex(backend.remote)
        if error not in (0, errno.EINPROGRESS, errno.EALREADY):
            raise OSError(error, os.strerror(error))
        return UpstreamConnection(loop, sock, READ | WRITE if error else READ, backend, dispatcher)
    except BaseException:
        sock.close()
        raise
