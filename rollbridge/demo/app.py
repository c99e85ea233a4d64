"""The sample app that the demo deploys: HTTP/1.1 and WebSocket on asyncio streams, run as ``_demo-app``.

An app like any other: it knows nothing of rollbridge but the environment variables that every process gets.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO
from urllib.parse import parse_qs, urlsplit

from rollbridge.demo import content, websocket, wire
from rollbridge.demo.websocket import CloseCode, Opcode

REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    426: "Upgrade Required",
    500: "Internal Server Error",
}
MAX_DOWNLOAD_BYTES: Final = 1024 * 1024 * 1024
MAX_SLOW_SECONDS: Final = 60.0
SLOW_STEP_SECONDS: Final = 0.1
# A peer that never answers our close must not hold up the stop for ever.
CLOSE_WAIT_SECONDS: Final = 3.0
# A broken release answers its health check with 500 for this long, then gives up: both
# ways to fail a deploy are seen, and nobody waits for a timeout.
BROKEN_SECONDS: Final = 0.6
BROKEN_REASON: Final = "the database lacks migration 0042 that this release needs"
BROKEN_EXIT_CODE: Final = 3


@dataclass(frozen=True, slots=True)
class Release:
    """What the app says about itself."""

    id: str
    is_broken: bool


def read_release(directory: Path, environ: Mapping[str, str]) -> Release:
    """The release in ``directory``: its ``release.json`` may say ``{"is_broken": true}``."""
    path = directory / "release.json"
    definition = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return Release(environ.get("ROLLBRIDGE_RELEASE_ID", "none"), bool(definition.get("is_broken", False)))


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    head: wire.Head
    body: AsyncIterator[bytes]

    def number(self, name: str, default: float, maximum: float) -> float:
        """The query parameter ``name``. Raises BadMessage when it is no number from 0 to ``maximum``."""
        try:
            value = float(self.query.get(name, default))
        except ValueError:
            value = -1.0
        if not 0 <= value <= maximum:
            raise wire.BadMessage(f"{name} must be a number from 0 to {maximum:g}")
        return value


@dataclass(frozen=True, slots=True)
class Response:
    """``length`` None: the body is sent chunked."""

    status: int
    body: AsyncIterable[bytes]
    length: int | None
    fields: Mapping[str, str] = field(default_factory=dict)


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def answer_json(value: object, status: int = 200) -> Response:
    data = json.dumps(value).encode() + b"\n"
    return Response(status, once(data), len(data), {"Content-Type": "application/json"})


@dataclass(slots=True, eq=False)
class Connection:
    """One client; ``is_busy`` from a request's head to the last byte of its answer."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_busy: bool = False


class App:
    """Serves until ``stop``, then finishes what it has."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self._identity = {"X-Release": release.id, "X-Pid": str(os.getpid())}
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._stopping = asyncio.Event()
        self._routes: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/": self._home,
            "/ping": self._ping,
            "/download": self._download,
            "/upload": self._upload,
            "/slow": self._slow,
        }

    async def serve(self, host: str, port: int) -> None:
        """Listen on ``host``:``port`` until stopped, then until the last connection is done. Raises OSError."""
        server = await asyncio.start_server(self._accepted, host, port, backlog=1024)
        print_line(sys.stdout, f"release {self._release.id} listens on {host}:{port}")
        await self._stopping.wait()
        server.close()
        for connection in self._connections.values():
            if not connection.is_busy:
                connection.writer.close()
        while self._connections:
            await asyncio.wait(list(self._connections))

    def stop(self) -> None:
        self._stopping.set()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        task = asyncio.get_running_loop().create_task(self._serve_connection(connection))
        self._connections[task] = connection
        task.add_done_callback(self._connections.pop)

    async def _serve_connection(self, connection: Connection) -> None:
        try:
            while await self._serve_request(connection):
                pass
        except (wire.Truncated, ConnectionError):
            return  # the client left; there is nobody to tell
        except (wire.BadMessage, TimeoutError) as error:
            print_error(f"closed a connection: {error}")
        finally:
            connection.writer.close()

    async def _serve_request(self, connection: Connection) -> bool:
        """Answer one request; whether the connection may carry another."""
        connection.is_busy = False
        if self._stopping.is_set():
            return False
        head = await wire.read_head(connection.reader)
        if head is None:
            return False
        connection.is_busy = True
        method, target, version = [*head.start.split(" "), "", ""][:3]
        url = urlsplit(target)
        if url.path == "/ws" and head.has_token("upgrade", "websocket"):
            await self._serve_websocket(connection, head)
            return False
        if head.has_token("expect", "100-continue"):
            connection.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = wire.read_body(connection.reader, head, is_response=False)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        response = await self._respond(Request(method, url.path, query, head, body))
        async for _rest in body:
            continue  # what the handler did not read would be taken for the next request
        # After a body that could not be read there is no telling where the next request begins.
        is_last = (
            version != "HTTP/1.1"
            or response.status == 400
            or head.has_token("connection", "close")
            or self._stopping.is_set()
        )
        await self._send(connection.writer, response, is_last=is_last, has_body=method != "HEAD")
        return not is_last

    async def _respond(self, request: Request) -> Response:
        handler = self._routes.get(request.path)
        if handler is None:
            return answer_json({"error": f"no such page: {request.path}"}, 404)
        try:
            return await handler(request)
        except wire.BadMessage as error:
            return answer_json({"error": str(error)}, 400)

    async def _send(self, writer: asyncio.StreamWriter, response: Response, *, is_last: bool, has_body: bool) -> None:
        framing = {"Transfer-Encoding": "chunked"} if response.length is None else {"Content-Length": response.length}
        fields = {**response.fields, **self._identity, **framing, "Connection": "close" if is_last else "keep-alive"}
        head = f"HTTP/1.1 {response.status} {REASONS[response.status]}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(head.encode("latin-1") + b"\r\n")
        if has_body:
            async for piece in response.body:
                writer.write(piece if response.length is not None else wire.encode_chunk(piece))
                await writer.drain()
            if response.length is None:
                writer.write(wire.encode_chunk(b""))
        await writer.drain()

    async def _home(self, request: Request) -> Response:
        return answer_json({"release": self._release.id, "pid": os.getpid(), "path": request.path})

    async def _ping(self, request: Request) -> Response:
        if self._release.is_broken:
            return answer_json({"error": BROKEN_REASON}, 500)
        return answer_json({"status": "ok", "release": self._release.id})

    async def _download(self, request: Request) -> Response:
        """``?bytes=N&chunked=0|1``"""
        size = int(request.number("bytes", 0, MAX_DOWNLOAD_BYTES))

        async def body() -> AsyncIterator[bytes]:
            for piece in content.pieces(size):
                yield piece

        return Response(200, body(), None if request.number("chunked", 0, 1) else size)

    async def _upload(self, request: Request) -> Response:
        digest, size = hashlib.sha256(), 0
        async for piece in request.body:
            digest.update(piece)
            size += len(piece)
        return answer_json({"bytes": size, "sha256": digest.hexdigest()})

    async def _slow(self, request: Request) -> Response:
        """``?seconds=S``: a line every tenth of a second, for so long."""
        seconds = request.number("seconds", 1, MAX_SLOW_SECONDS)

        async def body() -> AsyncIterator[bytes]:
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                yield b"still working\n"
                await asyncio.sleep(min(left, SLOW_STEP_SECONDS))
            yield b"done\n"

        return Response(200, body(), None)

    async def _serve_websocket(self, connection: Connection, head: wire.Head) -> None:
        """Greet with who we are, echo every message, and close with 1001 when stopped."""
        key = head.fields.get("sec-websocket-key", "")
        if head.fields.get("sec-websocket-version") != "13" or not websocket.is_handshake_key(key):
            refusal = answer_json({"error": "WebSocket version 13 with a key of 16 bytes, please"}, 426)
            await self._send(connection.writer, refusal, is_last=True, has_body=True)
            return
        fields = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": websocket.accept_key(key)}
        lines = "".join(f"{name}: {value}\r\n" for name, value in (fields | self._identity).items())
        connection.writer.write(f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode("latin-1"))
        greeting = json.dumps({"release": self._release.id, "pid": os.getpid()}).encode()
        connection.writer.write(websocket.encode_frame(Opcode.TEXT, greeting))
        echo = asyncio.create_task(echo_messages(connection))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({echo, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not echo.done():
            connection.writer.write(websocket.encode_close(CloseCode.GOING_AWAY, "this release is stopping"))
            await asyncio.wait({echo}, timeout=CLOSE_WAIT_SECONDS)
        echo.cancel()
        await asyncio.gather(echo, return_exceptions=True)


async def echo_messages(connection: Connection) -> None:
    """Echo until either side has said close; what the peer breaks is answered with a close that says so."""
    messages = websocket.MessageReader(expects_mask=True)
    writer = connection.writer
    try:
        while data := await connection.reader.read(wire.READ_BYTES):
            for message in messages.feed(data):
                if message.opcode is Opcode.CLOSE:
                    websocket.close_code(message.data)
                    writer.write(websocket.encode_frame(Opcode.CLOSE, message.data))
                    await writer.drain()
                    return
                if message.opcode is Opcode.PING:
                    writer.write(websocket.encode_frame(Opcode.PONG, message.data))
                elif message.opcode is not Opcode.PONG:
                    writer.write(websocket.encode_frame(message.opcode, message.data))
            await writer.drain()
    except websocket.BadFrame as error:
        writer.write(websocket.encode_close(error.code, str(error)))
    except ConnectionError as error:
        print_error(f"a WebSocket was cut: {error}")


async def give_up() -> int:
    await asyncio.sleep(BROKEN_SECONDS)
    print_error(f"giving up: {BROKEN_REASON}")
    return BROKEN_EXIT_CODE


async def run_app(app: App, release: Release, host: str, port: int) -> int:
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, app.stop)
    serving = asyncio.create_task(app.serve(host, port))
    if release.is_broken:
        failing = asyncio.create_task(give_up())
        await asyncio.wait({serving, failing}, return_when=asyncio.FIRST_COMPLETED)
        return failing.result() if failing.done() else 0
    await serving
    return 0


def print_error(text: str) -> None:
    print_line(sys.stderr, text)


def print_line(stream: TextIO, text: str) -> None:
    stream.write(text + "\n")
    stream.flush()


def main(argv: Sequence[str]) -> int:
    """``_demo-app --port N [--host H]``: serve the release in the working directory until SIGTERM."""
    parser = argparse.ArgumentParser(prog="rollbridge _demo-app")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args(argv)
    release = read_release(Path.cwd(), os.environ)

    async def serve() -> int:
        return await run_app(App(release), release, options.host, options.port)

    try:
        return asyncio.run(serve())
    except OSError as error:
        print_error(f"cannot listen on {options.host}:{options.port}: {os.strerror(error.errno or 0)}")
        return 1
