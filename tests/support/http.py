"""A plain HTTP/1.1 client over one socket: it sees exactly what happens to its connection."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

CLIENT_TIMEOUT_SECONDS = 20.0
RECEIVE_BYTES = 256 * 1024


class ExchangeFailed(Exception):
    """A request got no complete answer; the text says what happened to the connection."""


@dataclass(frozen=True, slots=True)
class Response:
    """``headers`` with names lowercased; of a repeated one the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


class HttpConnection:
    """One client connection; ``request`` may be called again while the server keeps it open."""

    def __init__(self, port: int, host: str = "127.0.0.1", timeout: float = CLIENT_TIMEOUT_SECONDS) -> None:
        self.host, self.port = host, port
        try:
            self.socket = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise ExchangeFailed(f"connect: {error}") from error
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.is_open = True

    def __enter__(self) -> HttpConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.is_open = False
        self.socket.close()

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise ExchangeFailed(f"send: {error}") from error

    def send_request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, chunk: int = 0
    ) -> None:
        """Send a whole request; ``chunk`` > 0 sends the body in chunks of that many bytes."""
        fields = {"Host": f"{self.host}:{self.port}", **(headers or {})}
        if chunk:
            fields["Transfer-Encoding"] = "chunked"
            pieces = [body[start : start + chunk] for start in range(0, len(body), chunk)]
            payload = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        else:
            payload = body
            if body or method in ("POST", "PUT"):
                fields["Content-Length"] = str(len(body))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.send(head.encode() + b"\r\n" + payload)

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        chunk: int = 0,
    ) -> Response:
        self.send_request(method, path, body, headers, chunk)
        return self.read_response(method)

    def read_head(self) -> tuple[int, dict[str, str]]:
        """Read one response head; interim 1xx heads but 101 are skipped."""
        while True:
            head = self.read_until(b"\r\n\r\n").decode("latin-1")
            status_line, *lines = head[:-4].split("\r\n")
            parts = status_line.split(" ", 2)
            if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
                raise ExchangeFailed(f"status line {status_line[:80]!r}")
            status = int(parts[1])
            if status < 200 and status != 101:
                continue
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            return status, headers

    def read_response(self, method: str = "GET") -> Response:
        status, headers = self.read_head()
        if headers.get("connection", "").lower() == "close":
            self.is_open = False
        if method == "HEAD" or status in (101, 204, 304):
            return Response(status, headers, b"")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return Response(status, headers, self._read_chunks())
        if "content-length" in headers:
            return Response(status, headers, self.read_exactly(int(headers["content-length"])))
        self.is_open = False
        while self._receive():
            pass
        return Response(status, headers, self._take(len(self.buffer)))

    def _read_chunks(self) -> bytes:
        body = bytearray()
        while True:
            size = int(self.read_until(b"\r\n").split(b";")[0], 16)
            if not size:
                while self.read_until(b"\r\n") != b"\r\n":
                    pass
                return bytes(body)
            body += self.read_exactly(size)
            self.read_until(b"\r\n")

    def read_until(self, end: bytes) -> bytes:
        while (at := self.buffer.find(end)) < 0:
            if not self._receive():
                raise ExchangeFailed(f"closed by the server after {bytes(self.buffer[:80])!r}")
        return self._take(at + len(end))

    def read_exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            if not self._receive():
                raise ExchangeFailed(f"closed by the server with {len(self.buffer)} of {count} bytes")
        return self._take(count)

    def read_some(self) -> bytes:
        """Whatever comes next; empty at the end of the stream."""
        if not self.buffer:
            self._receive()
        return self._take(len(self.buffer))

    def _take(self, count: int) -> bytes:
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except TimeoutError as error:
            raise ExchangeFailed(f"no byte for {self.socket.gettimeout():g} s") from error
        except OSError as error:
            raise ExchangeFailed(f"receive: {error}") from error
        self.buffer += data
        return bool(data)


def fetch(
    port: int,
    path: str = "/",
    method: str = "GET",
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    timeout: float = CLIENT_TIMEOUT_SECONDS,
) -> Response:
    """One request on a connection of its own."""
    with HttpConnection(port, host, timeout) as connection:
        return connection.request(method, path, body, {"Connection": "close", **(headers or {})})
