"""The stage for a hostile request: an application that records what it gets, the proxy before it, one client."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from tests.fuzz.second_reading import Incomplete, Request, Unreadable, read_request

Described: TypeAlias = tuple[str, str, str, bytes]  # method, path, host, body

PATIENCE_SECONDS: Final = 10.0
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([2-9][0-9]{2})[ \r]")


@dataclass
class Record:
    """What came over one upstream connection: requests that are complete, and the bytes after them."""

    requests: list[Request] = field(default_factory=list)
    data: bytes = b""
    read_to: int = 0
    is_over: bool = False

    @property
    def leftover(self) -> str:
        """What the bytes after the last request are: "" nothing, "cut" a request without its end, "unreadable"."""
        if self.read_to == len(self.data):
            return ""
        try:
            read_request(self.data, self.read_to)
        except Incomplete:
            return "cut"
        except Unreadable:
            return "unreadable"
        return "unread"


class RecordingApplication:
    """Answers every request it can read with 200, and keeps all it has been sent."""

    def __init__(self, *, closes: bool = True) -> None:
        self._closes = closes  # ends a connection after its first answer, and shows what came after the request
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._socket.getsockname()[1]
        self.records: list[Record] = []
        self.requests: list[Request] = []  # of all connections, in the order in which they were complete
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def wait_over(self) -> list[Record]:
        """All records since the last call, once their connections are over."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not all(record.is_over for record in self.records):
            assert time.monotonic() < deadline, "an upstream connection stays open"
            time.sleep(0.0005)  # asks a list of another thread: there is nothing to wait on
        records, self.records = self.records, []
        return records

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._socket.accept()
                sock.settimeout(PATIENCE_SECONDS)
                record = Record()
                self.records.append(record)
                threading.Thread(target=self._serve, args=(sock, record), daemon=True).start()

    def _serve(self, sock: socket.socket, record: Record) -> None:
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65536):
                record.data += data
                self._answer(sock, record)
        record.is_over = True

    def _answer(self, sock: socket.socket, record: Record) -> None:
        while record.read_to < len(record.data) and not (self._closes and record.requests):
            try:
                request, record.read_to = read_request(record.data, record.read_to)
            except Incomplete:
                return
            except Unreadable:
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                sock.shutdown(socket.SHUT_WR)
                return
            record.requests.append(request)
            self.requests.append(request)
            closing = b"Connection: close\r\n" if self._closes else b""
            body = b"" if request.method == b"HEAD" else b"ok"
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + closing + b"\r\n" + body)


@dataclass
class Verdict:
    """What became of a case: what the application got, in order, and what the client was answered."""

    requests: list[Described]
    leftover: str  # "" nothing, "cut" a request without its end, "unreadable" something worse
    statuses: list[int]
    is_ended: bool = True  # the proxy has closed the client's connection
    client_bytes: bytes = b""
    upstream_bytes: tuple[bytes, ...] = ()


def play(port: int, application: RecordingApplication, pieces: Iterable[bytes], *, shuts: bool) -> Verdict:
    """Send ``pieces`` to the proxy at ``port`` and wait for the end of all that they set off."""
    received, is_ended = converse(port, pieces, shuts=shuts)
    records = application.wait_over()
    requests = [described(request) for record in records for request in record.requests]
    leftovers = [record.leftover for record in records if record.leftover]
    sent = tuple(record.data for record in records)
    return Verdict(requests, leftovers[0] if leftovers else "", statuses_of(received), is_ended, received, sent)


def converse(port: int, pieces: Iterable[bytes], *, shuts: bool) -> tuple[bytes, bool]:
    """All that comes back for ``pieces``, and whether the connection ended; ``shuts``: we say that we have ended."""
    received = b""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(PATIENCE_SECONDS)
        with contextlib.suppress(OSError):  # the proxy may have ended it already
            for piece in pieces:
                client.sendall(piece)
            if shuts:
                client.shutdown(socket.SHUT_WR)
        try:
            while data := client.recv(65536):
                received += data
        except TimeoutError:
            return received, False
        except ConnectionError:
            pass
    return received, True


def statuses_of(received: bytes) -> list[int]:
    """The final statuses in what a client got."""
    return [int(status) for status in _STATUS.findall(received)]


def described(request: Request) -> Described:
    host = (request.host or b"").decode("latin-1")
    return request.method.decode("latin-1"), request.path.decode("latin-1"), host, abridged(request.body.payload)


def abridged(body: bytes) -> bytes:
    """``body``, or its hash when it is too long to be stored."""
    return body if len(body) <= 4096 else b"SHA-256 " + hashlib.sha256(body).hexdigest().encode()


def are_alike(ours: Described, theirs: Described) -> bool:
    """Whether two proxies mean the same request; they may drop a Host's port, its case and its final dot."""
    return (ours[:2], _plain_host(ours[2]), ours[3]) == (theirs[:2], _plain_host(theirs[2]), theirs[3])


def _plain_host(host: str) -> str:
    return re.sub(r":[0-9]*$", "", host).lower().removesuffix(".")
