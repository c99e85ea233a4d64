"""Clients of every kind, from threads with plain sockets; each failure is kept with all that may explain it."""

from __future__ import annotations

import collections
import random
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from tests.chaos.attribution import Failure
from tests.chaos.jobs import JobQueue
from tests.support.http import ExchangeFailed, HttpConnection
from tests.support.websocket import WebSocket

PAUSE_SECONDS = 0.02
WEBSOCKET_PAUSE_SECONDS = 0.05
JOB_PAUSE_SECONDS = 0.12
# Above the hold timeout by far, so that a client never gives up before the proxy has answered.
CLIENT_TIMEOUT_SECONDS = 90.0
BODY_SIZES = (0, 1, 900, 70_000, 300_000, 1_200_000)
PAGE_SIZES = (0, 10, 5_000, 200_000)
SLOW_MILLISECONDS = (0, 0, 0, 0, 30, 400)


@dataclass(slots=True)
class Attempt:
    """How far a request has come; filled in on the way."""

    kind: str
    request_id: str
    began_at: float
    port: int = 0
    connected_at: float = 0.0
    who: str = ""


@dataclass(slots=True)
class Journal:
    """What the clients saw; shared by their threads."""

    failures: list[Failure] = field(default_factory=list)
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    defects: list[str] = field(default_factory=list)  # of the clients themselves
    longest_seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def succeed(self, attempt: Attempt) -> None:
        seconds = time.monotonic() - attempt.began_at
        with self.lock:
            self.counts[attempt.kind] += 1
            self.longest_seconds = max(self.longest_seconds, seconds)

    def fail(self, attempt: Attempt, reason: str, status: int = 0, retry_after: str = "") -> None:
        failure = Failure(
            attempt.kind,
            attempt.request_id,
            reason,
            status,
            retry_after,
            attempt.who,
            attempt.port,
            attempt.connected_at,
            attempt.began_at,
            time.monotonic(),
        )
        with self.lock:
            self.counts[attempt.kind] += 1
            self.failures.append(failure)

    @property
    def total(self) -> int:
        with self.lock:
            return sum(self.counts.values())


class Connection:
    """A client's connection and since when it is there; its port is the client's."""

    def __init__(self, port: int) -> None:
        self.connected_at = time.monotonic()
        self.http = HttpConnection(port, timeout=CLIENT_TIMEOUT_SECONDS)
        self.port: int = self.http.socket.getsockname()[1]

    def is_usable(self) -> bool:
        """Whether the server has not closed it while it was idle; a client that looks loses no request by that."""
        return self.http.is_open and not select.select([self.http.socket], [], [], 0)[0]


class Traffic:
    """Clients in threads, and who puts jobs into the queue, from entering the context to ``stop``."""

    def __init__(self, port: int, queue: JobQueue, seed: int) -> None:
        self.port, self.queue = port, queue
        self.journal = Journal()
        self.jobs: list[str] = []
        self._is_over = threading.Event()
        self._has_no_more_jobs = threading.Event()
        kinds: list[tuple[str, int, Callable[[str, random.Random], None]]] = [
            ("keep-alive", 2, self._keep_alive),
            ("new", 2, self._new_connections),
            ("upload", 2, self._uploads),
            ("websocket", 2, self._websockets),
            ("job", 1, self._add_jobs),
        ]
        self._threads = [
            threading.Thread(
                target=self._guarded,
                args=(client, f"{kind}{number}", random.Random(f"{seed}-{kind}-{number}")),
                name=f"{kind} {number}",
                daemon=True,
            )
            for kind, count, client in kinds
            for number in range(count)
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop_jobs(self) -> None:
        self._has_no_more_jobs.set()

    def stop(self) -> None:
        """Let every client finish what it has."""
        self._is_over.set()
        self.stop_jobs()
        for thread in self._threads:
            thread.join(CLIENT_TIMEOUT_SECONDS + 10)

    def _guarded(self, client: Callable[[str, random.Random], None], name: str, chance: random.Random) -> None:
        try:
            client(name, chance)
        except Exception as error:  # a thread that dies silently would be a check that cannot fail
            with self.journal.lock:
                self.journal.defects.append(f"the client {name} broke: {type(error).__name__}: {error}")

    # --- clients; ``name`` and a number make the id of a request

    def _keep_alive(self, name: str, chance: random.Random) -> None:
        connection: Connection | None = None
        number = 0
        while not self._is_over.wait(PAUSE_SECONDS):
            number += 1
            connection = self._exchange("keep-alive", f"{name}.{number}", chance, connection)
            if chance.random() < 0.01 and connection is not None:
                connection.http.close()
                connection = None

    def _new_connections(self, name: str, chance: random.Random) -> None:
        number = 0
        while not self._is_over.wait(PAUSE_SECONDS):
            number += 1
            connection = self._exchange("new", f"{name}.{number}", chance, None)
            if connection is not None:
                connection.http.close()

    def _uploads(self, name: str, chance: random.Random) -> None:
        connection: Connection | None = None
        number = 0
        while not self._is_over.wait(PAUSE_SECONDS * 3):
            number += 1
            body = chance.randbytes(chance.choice(BODY_SIZES))
            connection = self._exchange("upload", f"{name}.{number}", chance, connection, body)

    def _exchange(
        self,
        kind: str,
        request_id: str,
        chance: random.Random,
        connection: Connection | None,
        body: bytes | None = None,
    ) -> Connection | None:
        """One request on ``connection`` or a fresh one; returns the connection if it may carry another."""
        attempt = Attempt(kind, request_id, time.monotonic())
        try:
            if connection is None or not connection.is_usable():
                if connection is not None:
                    connection.http.close()
                connection = Connection(self.port)
            attempt.port, attempt.connected_at = connection.port, connection.connected_at
            size = chance.choice(PAGE_SIZES)
            path = "/echo" if body is not None else f"/page?{size}&{chance.choice(SLOW_MILLISECONDS)}"
            expected = b"x" * size if body is None else body
            http = connection.http
            method = "GET" if body is None else "POST"
            chunk = 30_000 if body is not None and chance.random() < 0.5 else 0
            status, headers = send_and_read_head(http, method, path, body or b"", request_id, chunk)
            attempt.who = headers.get("x-who", "")
            # Nothing of ours is chunked on the way back.
            answer = http.read_exactly(int(headers.get("content-length", "0")))
            if status != 200:
                text = answer[:100].decode(errors="replace").strip()
                self.journal.fail(attempt, f"{status}: {text}", status, headers.get("retry-after", ""))
            elif answer != expected:
                self.journal.fail(attempt, f"wrong body: {len(answer)} bytes for {len(expected)}", status)
            else:
                self.journal.succeed(attempt)
            if headers.get("connection", "").lower() == "close":
                http.close()
                return None
        except (ExchangeFailed, ValueError) as error:
            self.journal.fail(attempt, str(error))
            if connection is not None:
                connection.http.close()
            return None
        return connection

    def _websockets(self, name: str, chance: random.Random) -> None:
        number = 0
        while not self._is_over.wait(WEBSOCKET_PAUSE_SECONDS):
            number += 1
            attempt = Attempt("websocket", f"{name}.{number}", time.monotonic())
            try:
                self._converse(attempt, chance)
            except (ExchangeFailed, ValueError) as error:
                status = error.status if isinstance(error, Refused) else 0
                retry_after = error.retry_after if isinstance(error, Refused) else ""
                self.journal.fail(attempt, str(error), status, retry_after)

    def _converse(self, attempt: Attempt, chance: random.Random) -> None:
        attempt.connected_at = time.monotonic()
        with ChaosWebSocket(self.port, attempt) as websocket:
            for message in range(chance.choice((3, 30, 200))):
                attempt.began_at = time.monotonic()
                text = f"{attempt.request_id} {message}"
                answer = websocket.echo(text)
                if answer != text:
                    raise ValueError(f"sent {text!r}, got {answer[:80]!r}")
                self.journal.succeed(attempt)
                if self._is_over.wait(WEBSOCKET_PAUSE_SECONDS):
                    return

    def _add_jobs(self, name: str, chance: random.Random) -> None:
        number = 0
        while not self._has_no_more_jobs.wait(JOB_PAUSE_SECONDS):
            number += 1
            job = f"j{number:07d}"
            self.jobs.append(job)
            self.queue.add(job, chance.choice((5, 50, 200, 200, 900)))


def send_and_read_head(
    http: HttpConnection, method: str, path: str, body: bytes, request_id: str, chunk: int
) -> tuple[int, dict[str, str]]:
    """Send a request; an answer that comes before all of it is sent is read as any other."""
    try:
        http.send_request(method, path, body, {"X-Chaos-Id": request_id}, chunk)
    except ExchangeFailed as failed:
        try:
            return http.read_head()
        except ExchangeFailed:
            raise failed from None
    return http.read_head()


class Refused(ExchangeFailed):
    """The proxy's answer to a handshake was another than 101."""

    def __init__(self, status: int, text: str, retry_after: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status, self.retry_after = status, retry_after


class ChaosWebSocket(WebSocket):
    """A WebSocket whose handshake tells who answers it, and carries the request's id."""

    def __init__(self, port: int, attempt: Attempt) -> None:
        self.connection = HttpConnection(port, timeout=CLIENT_TIMEOUT_SECONDS)
        attempt.port = self.connection.socket.getsockname()[1]
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAECAwQFBgcICQoLDA0ODw==",
            "X-Chaos-Id": attempt.request_id,
        }
        try:
            self.connection.send_request("GET", "/ws", headers=headers)
            status, fields = self.connection.read_head()
            attempt.who = fields.get("x-who", "")
            if status != 101:
                body = self.connection.read_exactly(int(fields.get("content-length", "0")))
                raise Refused(status, body[:100].decode(errors="replace").strip(), fields.get("retry-after", ""))
        except BaseException:
            self.connection.close()
            raise
