"""A tunnel: two sockets and what one has sent and the other has not taken yet."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rollbridge.proxy.loop import Loop
from rollbridge.proxy.stream import HIGH_WATER, READ, WRITE_STALL_SECONDS, Stream
from rollbridge.proxy.timers import NEVER

if TYPE_CHECKING:
    from rollbridge.proxy.client import Client
    from rollbridge.proxy.upstream import Release, UpstreamConnection
    from rollbridge.proxy.worker import Worker

# With one direction closed and nothing moving in the other, an end that has forgotten the connection would keep it
# for ever (and with it a release that drains).
HALF_CLOSED_SECONDS: Final = 60.0


class Tunnel:
    """Counts as one of its release's ``websocket`` connections until both directions have ended."""

    __slots__ = ("ends", "on_closed", "release", "worker")

    def __init__(self, worker: Worker, release: Release) -> None:
        self.worker = worker
        self.release = release
        self.ends: tuple[TunnelEnd, ...] = ()
        self.on_closed: Callable[[], None] | None = None
        release.websocket += 1
        worker.tunnels.add(self)
        worker.count_changed(release)

    def close(self, *, reset: bool = False) -> None:
        """End both directions now."""
        if self not in self.worker.tunnels:
            return
        self.worker.tunnels.discard(self)
        for end in self.ends:
            end.close(reset=reset)
        if self.on_closed is not None:
            self.on_closed()
        self.release.websocket -= 1
        self.worker.count_changed(self.release)
        self.worker.connection_closed()


class TunnelEnd(Stream):
    """One side of a tunnel; what it receives goes to ``peer``."""

    __slots__ = ("has_ended", "is_shut", "peer", "tunnel")

    peer: TunnelEnd

    def __init__(self, loop: Loop, sock: socket.socket, tunnel: Tunnel) -> None:
        super().__init__(loop, sock, READ)
        self.tunnel = tunnel
        self.has_ended = False  # it sends nothing more
        self.is_shut = False  # and has been told that it gets nothing more

    def received(self, data: bytes) -> None:
        peer = self.peer
        peer.write(data)
        if len(peer.out) > HIGH_WATER:
            self.stop_reading()
        if peer.has_ended:
            self._watch_half_closed()

    def ended(self) -> None:
        self.has_ended = True
        if self.is_write_broken:
            self.tunnel.close(reset=True)
            return
        self.peer.shut_when_drained()
        self._watch_half_closed()

    def shut_when_drained(self) -> None:
        """Relay the end of the other side, once this side has everything that came before it."""
        if self.out or self.is_shut or not self.peer.has_ended:
            return
        self.is_shut = True
        self.shut_writing()
        if self.has_ended and self.peer.is_shut:
            self.tunnel.close()

    def lost(self) -> None:
        self.tunnel.close(reset=True)

    def broken_while_not_read(self) -> None:
        if self.has_ended:
            self.tunnel.close(reset=True)
        else:
            super().broken_while_not_read()

    def drained(self) -> None:
        if not self.out:
            self.deadline = NEVER
            if self.peer.has_ended:
                self.shut_when_drained()
                self._watch_half_closed()
        if not self.peer.has_ended:
            self.peer.resume_reading()

    def write_blocked(self) -> None:
        self.loop.deadlines.set(self, self.loop.now + WRITE_STALL_SECONDS)

    def write_failed(self) -> None:
        self.loop.after_turn(self.lost)

    def expired(self) -> None:
        self.tunnel.close(reset=True)

    def abort(self) -> None:
        self.tunnel.close(reset=True)

    def _watch_half_closed(self) -> None:
        """Bytes still move, or have just ended, on a tunnel with one direction closed."""
        end = self.peer if self.has_ended else self
        if end.is_open and not end.out:
            self.loop.deadlines.set(end, self.loop.now + HALF_CLOSED_SECONDS)


def open_tunnel(
    client: Client,
    upstream: UpstreamConnection,
    release: Release,
    first: bytes,
    end_class: type[TunnelEnd] = TunnelEnd,
) -> Tunnel:
    """Join the two connections; ``first`` is the 101 and what came after it."""
    worker = client.worker
    loop = client.loop
    tunnel = Tunnel(worker, release)
    unsent = bytes(client.out)
    early = bytes(upstream.out) + client.take_buffer()
    has_ended = client.has_ended
    near = end_class(loop, client.detach(), tunnel)
    far = end_class(loop, upstream.detach(), tunnel)
    near.peer, far.peer = far, near
    tunnel.ends = (near, far)
    near.write(unsent + first)
    if early:
        far.write(early)
    if has_ended:
        near.stop_reading()
        near.ended()
    return tunnel
