"""Traffic of every kind, from threads with plain sockets; each failure is kept with its reason."""

from __future__ import annotations

import collections
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from tests.support.http import ExchangeFailed, HttpConnection
from tests.support.waiting import wait_until
from tests.support.websocket import WebSocket

# Between two requests of one client: enough load to hit every moment of a switch, and CPU left for the apps to start.
PAUSE_SECONDS = 0.002
BODY_SIZES = (0, 1, 900, 70_000, 300_000)


@dataclass(frozen=True, slots=True)
class Failure:
    """``seconds`` since the load began."""

    kind: str
    reason: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.seconds:8.3f} s {self.kind}: {self.reason}"


class Load:
    """Clients in threads, from entering the context to leaving it.

    ``keep_alive`` clients GET on one connection, ``new_connection`` clients GET on a fresh one each time, ``post``
    clients POST bodies of many sizes (with Content-Length and chunked in turns) and compare the echo, ``websocket``
    clients open a WebSocket, echo a few messages and leave.
    """

    def __init__(
        self,
        port: int,
        *,
        keep_alive: int = 2,
        new_connection: int = 1,
        post: int = 1,
        websocket: int = 0,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self.port, self.pause = port, pause
        self.failures: list[Failure] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.releases: collections.Counter[str] = collections.Counter()
        self.longest_seconds = 0.0
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        kinds: list[tuple[str, int, Callable[[], None]]] = [
            ("keep-alive", keep_alive, self._keep_alive_client),
            ("new connection", new_connection, self._new_connection_client),
            ("post", post, self._post_client),
            ("websocket", websocket, self._websocket_client),
        ]
        self._threads = [
            threading.Thread(target=client, name=f"load {kind}", daemon=True)
            for kind, number, client in kinds
            for _ in range(number)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(30.0)

    @property
    def total(self) -> int:
        with self._lock:
            return sum(self.counts.values())

    @property
    def clients(self) -> int:
        return len(self._threads)

    def wait_for_more(self, number: int = 50) -> None:
        """Until ``number`` more requests were answered."""
        goal = self.total + number
        wait_until(
            lambda: self.total >= goal,
            lambda: f"{number} more requests are answered ({self.total} of {goal}; {self.describe_failures()})",
        )

    def wait_for_release(self, release: str) -> None:
        wait_until(
            lambda: self.releases[release],
            lambda: f"{release} answers the load ({dict(self.releases)}; {self.describe_failures()})",
        )

    def describe_failures(self) -> str:
        with self._lock:
            shown = [str(failure) for failure in self.failures[:12]]
            return f"{len(self.failures)} failures of {sum(self.counts.values())} requests\n  " + "\n  ".join(shown)

    def assert_no_failure(self) -> None:
        assert not self.failures, self.describe_failures()
        assert self.counts, "the load answered no request at all"

    def _succeed(self, kind: str, release: str, began: float) -> None:
        seconds = time.monotonic() - began
        with self._lock:
            self.counts[kind] += 1
            if release:
                self.releases[release] += 1
            self.longest_seconds = max(self.longest_seconds, seconds)

    def _fail(self, kind: str, reason: str) -> None:
        with self._lock:
            self.counts[kind] += 1
            self.failures.append(Failure(kind, reason, time.monotonic() - self._began))

    def _exchange(self, kind: str, connection: HttpConnection) -> None:
        began = time.monotonic()
        response = connection.request("GET", "/")
        if response.status != 200:
            self._fail(kind, f"{response.status}: {response.text[:100]}")
            return
        self._succeed(kind, json.loads(response.body)["release"], began)

    def _keep_alive_client(self) -> None:
        connection: HttpConnection | None = None
        while not self._is_over.wait(self.pause):
            try:
                if connection is None or not connection.is_open:
                    connection = HttpConnection(self.port)
                self._exchange("keep-alive", connection)
            except (ExchangeFailed, ValueError) as error:
                self._fail("keep-alive", str(error))
                if connection is not None:
                    connection.close()
        if connection is not None:
            connection.close()

    def _new_connection_client(self) -> None:
        while not self._is_over.wait(self.pause):
            try:
                with HttpConnection(self.port) as connection:
                    self._exchange("new connection", connection)
            except (ExchangeFailed, ValueError) as error:
                self._fail("new connection", str(error))

    def _post_client(self) -> None:
        connection: HttpConnection | None = None
        turn = 0
        while not self._is_over.wait(self.pause):
            turn += 1
            body = os.urandom(BODY_SIZES[turn % len(BODY_SIZES)])
            began = time.monotonic()
            try:
                if connection is None or not connection.is_open:
                    connection = HttpConnection(self.port)
                response = connection.request("POST", "/echo", body, chunk=20_000 if turn % 2 else 0)
                if response.status != 200:
                    self._fail("post", f"{response.status}: {response.text[:100]}")
                elif response.body != body:
                    self._fail("post", f"sent {len(body)} bytes, got {len(response.body)} other ones")
                else:
                    self._succeed("post", response.headers.get("x-release", ""), began)
            except (ExchangeFailed, ValueError) as error:
                self._fail("post", str(error))
                if connection is not None:
                    connection.close()
        if connection is not None:
            connection.close()

    def _websocket_client(self) -> None:
        turn = 0
        while not self._is_over.wait(self.pause):
            began = time.monotonic()
            try:
                with WebSocket(self.port) as websocket:
                    for _ in range(5):
                        turn += 1
                        text = f"message {turn}"
                        answer = websocket.echo(text)
                        if not answer.endswith(text):
                            self._fail("websocket", f"sent {text!r}, got {answer[:80]!r}")
                        self._succeed("websocket", answer.partition(":")[0], began)
                        began = time.monotonic()
            except (ExchangeFailed, ValueError) as error:
                self._fail("websocket", str(error))
