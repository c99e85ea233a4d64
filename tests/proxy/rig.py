"""A real worker process between scripted sockets: the test plays client, application and supervisor by turns.

Everything happens in the test's own thread and order; every wait is for a condition and bounded.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from rollbridge.proxy.chunked import ChunkedReader
from rollbridge.proxy.framing import LengthReader
from rollbridge.proxy.messages import (
    Ack,
    Counts,
    Hello,
    Message,
    Report,
    Route,
    Settings,
    Shutdown,
    Target,
    Upstream,
    Welcome,
    decode,
    encode,
)

PATIENCE_SECONDS = 10.0
_RUN = "import sys; from rollbridge.proxy.worker import main; sys.exit(main(sys.argv[1:]))"
M = TypeVar("M", bound=Message)


class Peer:
    """One connected socket of a test, with a timeout on everything and helpers that speak HTTP."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE_SECONDS)
        self.buffer = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def shut(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def more(self) -> bytes:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(f"closed after {self.buffer[:200]!r}")
        self.buffer += data
        return data

    def read(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self.more()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            self.more()
        end = self.buffer.index(mark) + len(mark)
        data, self.buffer = self.buffer[:end], self.buffer[end:]
        return data

    def read_head(self) -> bytes:
        return self.read_until(b"\r\n\r\n")

    def read_chunked(self) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Payload and trailers of a chunked body."""
        reader = ChunkedReader()
        payload = reader.feed(self.buffer)
        self.buffer = b""
        while not reader.is_done:
            self.more()
            payload += reader.feed(self.buffer)
            self.buffer = b""
        self.buffer = reader.rest
        return payload, reader.trailers

    def body(self, is_chunked: bool, length: int) -> Iterator[bytes]:
        """The payload of a body piece by piece, none of it kept; ``length`` counts when it is not chunked."""
        reader = ChunkedReader() if is_chunked else LengthReader(length)
        while not reader.is_done:
            data = self.buffer or self.more()
            self.buffer = b""
            yield reader.feed(data)
        self.buffer = reader.rest

    def read_to_end(self) -> bytes:
        """Everything up to the end of the connection; ConnectionResetError when it ends by RST."""
        with contextlib.suppress(EOFError):
            while True:
                self.more()
        data, self.buffer = self.buffer, b""
        return data

    def read_response(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of a response with Content-Length, chunks, or none of them (204, 304)."""
        head = self.read_head()
        status = int(head.split(b" ", 2)[1])
        lowered = head.lower()
        if b"transfer-encoding: chunked" in lowered:
            return status, head, self.read_chunked()[0]
        length = 0
        if b"content-length:" in lowered and status not in (204, 304):
            length = int(lowered.split(b"content-length:")[1].split(b"\r\n")[0])
        return status, head, self.read(length)

    def get(self, target: bytes = b"/", *lines: bytes) -> None:
        self.send(b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: a", *lines, b"", b""]))

    def is_closed(self) -> bool:
        """Wait for the peer to close, cleanly or not; False when it sends something instead."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True

    def is_quiet(self, seconds: float = 0.0) -> bool:
        """Whether nothing has arrived by now, or arrives within ``seconds``."""
        return not self.buffer and not select.select([self.sock], [], [], seconds)[0]

    def respond(self, body: bytes = b"ok", *lines: bytes, status: bytes = b"200 OK") -> None:
        self.send(b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"Content-Length: %d" % len(body), b"", body]))


class App:
    """An application's listening socket."""

    def __init__(self, port: int = 0, backlog: int = 64) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(("127.0.0.1", port))
        self.sock.listen(backlog)
        self.sock.settimeout(PATIENCE_SECONDS)
        self.port: int = self.sock.getsockname()[1]
        self.peers: list[Peer] = []

    def accept(self) -> Peer:
        sock, _ = self.sock.accept()
        peer = Peer(sock)
        self.peers.append(peer)
        return peer

    def has_connection(self) -> bool:
        return bool(select.select([self.sock], [], [], 0)[0])

    def close(self) -> None:
        self.sock.close()
        for peer in self.peers:
            peer.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Rig:
    """A worker, its listening socket and its link; ``messages`` is everything it has said."""

    def __init__(self, directory: Path, *, before: str = "", index: int = 0, beside: Rig | None = None) -> None:
        """``before`` is a statement that the worker runs first: to lower a limit, to shorten a constant.

        ``beside`` is another worker of the same port.
        """
        if beside is not None:
            self.listener = beside.listener.dup()
        else:
            self.listener = socket.socket()
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind(("127.0.0.1", 0))
            self.listener.listen(512)
        self.port: int = self.listener.getsockname()[1]
        self.socket_path = str(directory / (f"worker-{index}.sock" if index else "worker.sock"))
        self.link, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"{before}; {_RUN}" if before else _RUN,
                f"--link-fd={theirs.fileno()}",
                f"--listen-fd={self.listener.fileno()}",
                f"--socket={self.socket_path}",
                f"--index={index}",
            ],
            pass_fds=(theirs.fileno(), self.listener.fileno()),
        )
        theirs.close()
        self.messages: list[Message] = []
        self.generation = 0
        self.clients: list[Peer] = []
        self.apps: list[App] = []
        self._unread = b""
        self.send(Hello())
        self.welcome = self.wait_message(Welcome)

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.link.close()
        self.listener.close()
        self.drop_all()

    # The supervisor.

    def send(self, message: Message) -> None:
        self.link.sendall(encode(message))

    def use_link(self, link: socket.socket) -> None:
        self.link.close()
        self.link = link
        self._unread = b""

    def wait(self, condition: Callable[[], bool]) -> None:
        """Read the link until ``condition`` holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"in vain; last messages: {self.messages[-5:]}"
            self._read(min(left, 0.05))

    def read_now(self) -> None:
        """Read what the link has at this moment."""
        self._read(0)

    def _read(self, seconds: float) -> None:
        if select.select([self.link], [], [], seconds)[0]:
            data = self.link.recv(65536)
            if not data:
                raise EOFError("the worker closed the link")
            *lines, self._unread = (self._unread + data).split(b"\n")
            self.messages += [decode(line) for line in lines]

    def wait_message(self, kind: type[M], is_it: Callable[[M], bool] = lambda _: True) -> M:
        """The newest message of that kind that fits; waits for one."""

        def found() -> M | None:
            return next((one for one in reversed(self.messages) if isinstance(one, kind) and is_it(one)), None)

        self.wait(lambda: found() is not None)
        message = found()
        assert message is not None
        return message

    def reports(self, text: str) -> list[Report]:
        return [one for one in self.messages if isinstance(one, Report) and text in one.message]

    @property
    def counts(self) -> Counts:
        return next((one for one in reversed(self.messages) if isinstance(one, Counts)), Counts())

    def wait_counts(self, key: str, http: int, websocket: int = 0) -> None:
        def is_so() -> bool:
            one = self.counts.releases.get(key)
            return (one.http, one.websocket) == (http, websocket) if one else (http, websocket) == (0, 0)

        self.wait(is_so)

    def route(
        self, active: str | None, *targets: Target, reason: str = "", hold: bool = False, is_awaited: bool = True
    ) -> int:
        """Send a route and wait for its acknowledgement."""
        self.generation += 1
        generation = self.generation
        self.send(Route(generation, active, reason, targets, hold))
        if is_awaited:
            self.wait_message(Ack, lambda ack: ack.generation == generation)
        return generation

    def serve(self, *apps: App, key: str = "r1") -> None:
        """Make the apps the upstreams of the one active release."""
        self.route(key, target(key, *apps))

    def configure(self, **settings: object) -> None:
        self.send(Settings(**settings))  # type: ignore[arg-type]  # names and types are the test's business

    def shutdown(self, drain_seconds: float) -> None:
        self.send(Shutdown(drain_seconds))

    # Clients and applications.

    def app(self, port: int = 0, backlog: int = 64) -> App:
        app = App(port, backlog)
        self.apps.append(app)
        return app

    def client(self, data: bytes = b"", *, receive_buffer: int | None = None) -> Peer:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect(("127.0.0.1", self.port))
        peer = Peer(sock)
        self.clients.append(peer)
        if data:
            peer.send(data)
        return peer

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def open_descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def drop_all(self) -> None:
        for client in self.clients:
            client.close()
        for app in self.apps:
            app.close()
        self.clients.clear()
        self.apps.clear()

    def check_clean(self) -> None:
        """With every socket of the test gone nothing may be left in the worker, and nothing may have gone wrong."""
        self.drop_all()
        self.configure()
        self.messages = [one for one in self.messages if isinstance(one, Report)]
        self.route(None, reason="stopped")
        self.wait(self._is_empty)
        assert not self.reports("defect"), self.reports("defect")
        assert self.process.poll() is None
        self.messages = [self.counts]

    def _is_empty(self) -> bool:
        counts = next((one for one in reversed(self.messages) if isinstance(one, Counts)), None)
        if counts is None or counts.clients or counts.held:
            return False
        return not any(one.http or one.websocket for one in counts.releases.values())


def target(key: str, *apps: App) -> Target:
    return Target(key, tuple(Upstream("127.0.0.1", app.port) for app in apps))


@contextlib.contextmanager
def clean(rig: Rig) -> Iterator[Rig]:
    """The rig for one test, checked afterwards."""
    yield rig
    rig.check_clean()
