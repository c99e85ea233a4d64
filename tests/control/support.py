"""A control server in a thread of its own, with a handler the tests choose, and raw clients to trouble it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rollbridge.control.protocol import CommandError, Peer
from rollbridge.control.server import ControlServer, Handler, Progress, ServerLimits

PATIENCE_SECONDS = 20.0


class ServerThread:
    """Runs a ControlServer on a loop in a thread."""

    def __init__(self, path: Path, handler: Handler, limits: ServerLimits | None = None, mode: int = 0o600) -> None:
        self.loop = asyncio.new_event_loop()
        self.defects: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.defects.append(context))
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.server = ControlServer(str(path), mode, None, None, handler, limits)
        try:
            self.run(self.server.start())
        except BaseException:
            self._stop_loop()
            raise

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.submit(coroutine).result(PATIENCE_SECONDS)

    def close(self, grace: float = 5.0) -> None:
        if not self.loop.is_closed():
            self.run(self.server.close(grace))
            self._stop_loop()

    def _stop_loop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        self.loop.close()


@contextlib.contextmanager
def serving(
    path: Path, handler: Handler, limits: ServerLimits | None = None, mode: int = 0o600
) -> Iterator[ServerThread]:
    server = ServerThread(path, handler, limits, mode)
    try:
        yield server
    finally:
        server.close()


async def echo(request: dict[str, object], progress: Progress, peer: Peer) -> dict[str, object]:
    """Answers with the request; ``fail`` and ``defect`` do what they say, ``report`` sends so many reports first."""
    if request["command"] == "fail":
        raise CommandError("it was refused", 4, {"holder": 7})
    if request["command"] == "defect":
        raise ZeroDivisionError("nobody foresaw this")
    count = request.get("report", 0)
    assert isinstance(count, int)
    for number in range(count):
        progress({"number": number})
    return {"status": "success", "request": request, "peer": list(peer)}


class Gate:
    """A handler that says when it was entered and goes on when it is told to."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.finished = threading.Event()
        self.cancelled = threading.Event()
        self._may_go_on = threading.Event()
        self.progress: Progress | None = None

    def open(self) -> None:
        self._may_go_on.set()

    async def __call__(self, request: dict[str, object], progress: Progress, peer: Peer) -> dict[str, object]:
        if request["command"] == "ping":
            return {"status": "success"}
        self.progress = progress
        self.entered.set()
        try:
            while not self._may_go_on.is_set():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.finished.set()
        return {"status": "success", "command": request["command"]}


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE_SECONDS)
    connection.connect(str(path))
    return connection


def read_answers(connection: socket.socket) -> list[dict[str, Any]]:
    """Return every message until the server ends the connection."""
    with connection.makefile("rb") as lines:
        return [json.loads(line) for line in lines]


def read_answer(connection: socket.socket) -> dict[str, Any]:
    """Return the next message, byte by byte so that nothing behind it is taken."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        assert byte, f"the connection ended after {bytes(line)!r}"
        line += byte
    answer = json.loads(line)
    assert isinstance(answer, dict)
    return answer
