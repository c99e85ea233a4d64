"""One client of the demo's traffic: HTTP and WebSocket exchanges that check every byte of what comes back."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from rollbridge.demo import websocket, wire
from rollbridge.demo.websocket import CloseCode, Opcode

Clock = Callable[[], float]
CONTINUE_SECONDS: Final = 2.0  # a client may send the body when no 100 comes (RFC 9110, section 10.1.1)


class RequestFailed(Exception):
    """The answer is not the right one. ``is_cut``: the proxy says that it lost the app while that answered."""

    def __init__(self, reason: str, *, is_cut: bool = False) -> None:
        super().__init__(reason)
        self.is_cut = is_cut


@dataclass(slots=True)
class Attempt:
    """How far one request came; filled in on the way, so that a failure can be judged by it."""

    started_at: float
    sent_at: float | None = None
    server_pid: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer with status 200; ``data`` is the body, ``release`` who gave it."""

    head: wire.Head
    data: bytes

    @property
    def release(self) -> str:
        return self.head.fields.get("x-release", "none")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


class HttpClient:
    """A connection to the stable port, opened when needed and kept while both sides want it."""

    def __init__(self, host: str, port: int, clock: Clock) -> None:
        self._address = (host, port)
        self._clock = clock
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(
        self,
        attempt: Attempt,
        method: str,
        target: str,
        *,
        fields: Mapping[str, str] | None = None,
        body: Iterable[bytes] | None = None,
        length: int | None = None,
        is_last: bool = False,
    ) -> Answer:
        """Send one request and read its whole answer.

        A ``body`` goes out with Content-Length when ``length`` is given, else chunked after ``100 Continue``.
        Raises RequestFailed, wire.Truncated, wire.BadMessage, OSError; the connection is closed then.
        """
        try:
            answer = await self._exchange(attempt, method, target, dict(fields or {}), body, length, is_last)
        except BaseException:
            self.close()
            raise
        if is_last or answer.head.has_token("connection", "close"):
            self.close()
        return answer

    async def _exchange(
        self,
        attempt: Attempt,
        method: str,
        target: str,
        fields: dict[str, str],
        body: Iterable[bytes] | None,
        length: int | None,
        is_last: bool,
    ) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        fields |= {"Host": "{}:{}".format(*self._address), "Connection": "close" if is_last else "keep-alive"}
        if body is not None and length is not None:
            fields["Content-Length"] = str(length)
        elif body is not None:
            fields |= {"Transfer-Encoding": "chunked", "Expect": "100-continue"}
        attempt.sent_at = self._clock()
        writer.write(encode_request(method, target, fields))
        head = None
        if body is not None:
            if length is None:
                head = await wait_for_continue(reader)
            if head is None:
                await send_body(writer, body, is_chunked=length is None)
        while head is None or head.start.startswith("HTTP/1.1 1"):
            head = await wire.read_head(reader)
            if head is None:
                raise wire.Truncated("connection closed before an answer")
        check_status(head, "200", attempt)
        return Answer(head, b"".join([piece async for piece in wire.read_body(reader, head, is_response=True)]))

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class WebSocketClient:
    """One WebSocket; use ``open``, then ``echo`` as often as you like, then ``close``."""

    def __init__(self, host: str, port: int, clock: Clock) -> None:
        self._address = (host, port)
        self._clock = clock
        self._messages = websocket.MessageReader(expects_mask=False)
        self._waiting: list[websocket.Message] = []
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.release = "none"

    async def open(self, attempt: Attempt) -> None:
        """Shake hands and read the app's greeting. Raises as ``HttpClient.request`` does, and BadFrame."""
        reader, writer = self._streams = await asyncio.open_connection(*self._address)
        key = base64.b64encode(os.urandom(16)).decode("ascii")
        fields = {
            "Host": "{}:{}".format(*self._address),
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
        }
        attempt.sent_at = self._clock()
        writer.write(encode_request("GET", "/ws", fields))
        head = await wire.read_head(reader)
        if head is None:
            raise wire.Truncated("connection closed before the handshake's answer")
        check_status(head, "101", attempt)
        if head.fields.get("sec-websocket-accept") != websocket.accept_key(key):
            raise RequestFailed("the handshake's answer does not belong to its key")
        greeting = json.loads((await self._next_message()).data)
        self.release = greeting["release"]

    async def echo(self, data: bytes) -> None:
        """Send ``data`` and wait for it to come back."""
        await self._send(websocket.encode_frame(Opcode.BINARY, data, mask=os.urandom(4)))
        message = await self._next_message()
        if message.opcode is Opcode.CLOSE:
            raise RequestFailed(f"the server closed the WebSocket with {websocket.close_code(message.data)}")
        if message != websocket.Message(Opcode.BINARY, data):
            raise RequestFailed(f"{len(data)} bytes went out, other {len(message.data)} bytes came back")

    async def close(self) -> None:
        """Say goodbye, and wait until the server has said it too and closed the connection."""
        await self._send(websocket.encode_close(CloseCode.NORMAL, mask=os.urandom(4)))
        message = await self._next_message()
        if message.opcode is not Opcode.CLOSE or websocket.close_code(message.data) != CloseCode.NORMAL:
            raise RequestFailed(f"our close was answered with {message.opcode.name} {message.data[:20]!r}")
        if self._streams is not None and await self._streams[0].read(1):
            raise RequestFailed("bytes came after the close")
        self.drop()

    def drop(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _send(self, frame: bytes) -> None:
        if self._streams is None:
            raise wire.Truncated("the WebSocket is not open")
        self._streams[1].write(frame)
        await self._streams[1].drain()

    async def _next_message(self) -> websocket.Message:
        while not self._waiting:
            data = await self._streams[0].read(wire.READ_BYTES) if self._streams else b""
            if not data:
                raise wire.Truncated("the WebSocket was cut without a close")
            self._waiting = self._messages.feed(data)
        return self._waiting.pop(0)


def encode_request(method: str, target: str, fields: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


async def wait_for_continue(reader: asyncio.StreamReader) -> wire.Head | None:
    """None when the body may be sent; else the final answer that came instead of ``100 Continue``."""
    waiting = asyncio.ensure_future(wire.read_head(reader))
    done, _ = await asyncio.wait({waiting}, timeout=CONTINUE_SECONDS)
    if not done:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return None
    head = waiting.result()
    if head is None:
        raise wire.Truncated("connection closed instead of 100 Continue")
    return None if head.start.startswith("HTTP/1.1 100") else head


async def send_body(writer: asyncio.StreamWriter, body: Iterable[bytes], *, is_chunked: bool) -> None:
    """Send all of it; a server that answers early and closes is judged by its answer, so a reset here is not raised."""
    try:
        for piece in body:
            writer.write(wire.encode_chunk(piece) if is_chunked else piece)
            await writer.drain()
        if is_chunked:
            writer.write(wire.encode_chunk(b""))
        await writer.drain()
    except ConnectionError:
        return  # reading meets the same end, or the answer that came before it


def check_status(head: wire.Head, expected: str, attempt: Attempt) -> None:
    """Learn from ``head`` who answers; raise RequestFailed when the status is not the ``expected`` one."""
    pid = head.fields.get("x-pid", "")
    attempt.server_pid = int(pid) if pid.isdecimal() else None
    status = head.start.split(" ")[1:2]
    if status != [expected]:
        raise RequestFailed(f"answered {head.start.partition(' ')[2][:60]!r}", is_cut=status == ["502"])
