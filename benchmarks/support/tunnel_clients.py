"""The near end of tunnels: opens WebSockets through a proxy, keeps them, lets some of them talk."""

from __future__ import annotations

import base64
import select
import socket
import statistics
import time
from dataclasses import dataclass

from benchmarks.support.tunnel_upstream import client_frame, server_frame

AT_ONCE = 250  # handshakes under way; below every backlog
# Each source address has some 28,000 ports by default, of which others may use some.
PER_ADDRESS = 5000
ANSWER_SECONDS = 20.0
_HANDSHAKE = (
    b"GET /socket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % base64.b64encode(bytes(16))
)


class TunnelFailed(Exception):
    """A proxy refused a tunnel, or one broke; the text says what came instead."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages that went through the proxy, both ways, and how long an answer took."""

    messages: int
    seconds: float
    p50_ms: float
    p99_ms: float


class TunnelClients:
    """Tunnels to one port, in the order in which they were opened."""

    def __init__(self, port: int, payload_bytes: int) -> None:
        self._port = port
        self._message = client_frame(b"x" * payload_bytes)
        self._answer_bytes = len(server_frame(b"y" * payload_bytes))
        self._sockets: list[socket.socket] = []

    def open(self, count: int) -> None:
        """Open ``count`` more."""
        while count > 0:
            batch = [self._connect() for _ in range(min(AT_ONCE, count))]
            for sock in batch:
                answer = b""
                while b"\r\n\r\n" not in answer:
                    data = sock.recv(4096)
                    if not data:
                        raise TunnelFailed(f"tunnel {len(self._sockets)} was refused: {answer[:200]!r}")
                    answer += data
                if not answer.startswith(b"HTTP/1.1 101"):
                    raise TunnelFailed(f"tunnel {len(self._sockets)} was refused: {answer[:200]!r}")
            count -= len(batch)

    def _connect(self) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(ANSWER_SECONDS)
        self._sockets.append(sock)
        sock.bind((f"127.0.0.{2 + len(self._sockets) // PER_ADDRESS}", 0))
        sock.connect(("127.0.0.1", self._port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(_HANDSHAKE)
        return sock

    def talk(self, count: int, seconds: float) -> Conversation:
        """Let the last ``count`` send a message, wait for the answer, send the next, for ``seconds``."""
        talking = {sock.fileno(): sock for sock in self._sockets[-count:]}
        missing = dict.fromkeys(talking, self._answer_bytes)
        sent_at: dict[int, float] = {}
        latencies: list[float] = []
        message, answer_bytes = self._message, self._answer_bytes
        with select.epoll() as epoll:
            begun = time.monotonic()
            deadline = begun + seconds
            for fd, sock in talking.items():
                epoll.register(fd, select.EPOLLIN)
                sent_at[fd] = time.monotonic()
                sock.send(message)
            while sent_at:
                events = epoll.poll(ANSWER_SECONDS, 1024)
                if not events:
                    raise TunnelFailed(f"{len(sent_at)} messages were not answered within {ANSWER_SECONDS:g} s")
                for fd, _mask in events:
                    sock = talking[fd]
                    data = sock.recv(4096)
                    if not data:
                        raise TunnelFailed("a tunnel was closed while it was in use")
                    missing[fd] -= len(data)
                    if missing[fd] > 0:
                        continue
                    missing[fd] = answer_bytes
                    now = time.monotonic()
                    latencies.append(now - sent_at.pop(fd))
                    if now < deadline:
                        sent_at[fd] = now
                        sock.send(message)
            taken = time.monotonic() - begun
        cuts = statistics.quantiles(latencies, n=100)
        return Conversation(2 * len(latencies), taken, cuts[49] * 1000, cuts[98] * 1000)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
