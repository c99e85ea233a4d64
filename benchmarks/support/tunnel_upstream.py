#!/usr/bin/env python3
"""The application at the far end of tunnels: answers each WebSocket message of a known size with one of that size.

    python3 tunnel_upstream.py PAYLOAD_BYTES

Prints the port it listens on. Any other request is answered with 200, so that a benchmark can see a proxy work.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import resource
import select
import socket
import sys

MASK_BYTES = 4  # clients mask what they send (RFC 6455, section 5.3); servers do not
FRAME_HEAD_BYTES = 2  # of a payload below 126 bytes
_KEY = re.compile(rb"(?i)\r\nSec-WebSocket-Key:[ \t]*([^\r\n]+)")
_ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


def client_frame(payload: bytes) -> bytes:
    """One text message of a client; the mask is zero, as nothing here depends on it."""
    return bytes((0x81, 0x80 | len(payload))) + bytes(MASK_BYTES) + payload


def server_frame(payload: bytes) -> bytes:
    return bytes((0x81, len(payload))) + payload


def handshake_answer(head: bytes) -> bytes:
    key = _KEY.search(head)
    if key is None:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    accept = base64.b64encode(hashlib.sha1(key.group(1) + _ACCEPT_SUFFIX).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
    )


class Server:
    """One epoll loop; of each connection it keeps the head so far, or how many bytes of a frame have come."""

    def __init__(self, payload_bytes: int) -> None:
        self._frame_bytes = len(client_frame(bytes(payload_bytes)))
        self._answer = server_frame(b"y" * payload_bytes)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._sockets: dict[int, socket.socket] = {}
        self._heads: dict[int, bytes] = {}
        self._partial: dict[int, int] = {}

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def run(self) -> None:
        while True:
            for fd, _mask in self._epoll.poll():
                if fd == self._listener.fileno():
                    self._accept()
                else:
                    self._read(fd)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _address = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets[sock.fileno()] = sock
                self._heads[sock.fileno()] = b""
                self._epoll.register(sock, select.EPOLLIN)

    def _read(self, fd: int) -> None:
        sock = self._sockets[fd]
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(fd)
        elif fd in self._heads:
            self._read_head(fd, self._heads[fd] + data)
        else:
            messages, self._partial[fd] = divmod(self._partial[fd] + len(data), self._frame_bytes)
            if messages:
                self._send(fd, self._answer * messages)

    def _read_head(self, fd: int, head: bytes) -> None:
        if b"\r\n\r\n" not in head:
            self._heads[fd] = head
            return
        answer = handshake_answer(head)
        self._send(fd, answer)
        if answer.startswith(b"HTTP/1.1 101"):
            del self._heads[fd]
            self._partial[fd] = 0
        elif fd in self._sockets:
            self._close(fd)

    def _send(self, fd: int, data: bytes) -> None:
        # Never more than a few hundred bytes wait for a client: they fit the socket's buffer.
        try:
            self._sockets[fd].send(data)
        except OSError:
            self._close(fd)

    def _close(self, fd: int) -> None:
        self._heads.pop(fd, None)
        self._partial.pop(fd, None)
        self._sockets.pop(fd).close()


def main() -> int:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = Server(int(sys.argv[1]))
    print(server.port, flush=True)
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
