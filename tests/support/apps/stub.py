"""A web app with chosen defects: one file, standard library only, one thread a connection.

Run as ``stub.py PORT [HOST]`` in a release directory. ``behaviour.json`` there says how to misbehave: ``Behaviour``.
It dies at once on SIGTERM, so that a request that is taken from it too early is a request lost.
"""

# Started hundreds of times in a test run: pathlib would cost more than all else it imports.
# ruff: noqa: PTH109, PTH110

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

Address = tuple[str, int]
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Behaviour:
    """What ``behaviour.json`` may set; all of it is optional."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.lines: list[str] = data.get("lines", [])  # printed to stderr at the start
        self.boot_gate: str | None = data.get("boot_gate")  # waits for this file before it binds
        self.exit_code: int | None = data.get("exit_code")  # exits before it listens
        self.listen: str = data.get("listen", "yes")  # or "no", or "elsewhere": on a port of its own
        self.is_mute: bool = data.get("is_mute", False)  # accepts and never answers
        self.ping_status: int = data.get("ping_status", 200)
        self.ping_gate: str | None = data.get("ping_gate")  # /ping answers 503 until this file exists
        self.stays_without_port: bool = data.get("stays_without_port", False)  # when its port is taken
        self.term_gate: str | None = data.get("term_gate")  # on SIGTERM waits for this file
        self.ignores_term: bool = data.get("ignores_term", False)


def say(text: str) -> None:
    os.write(2, text.encode() + b"\n")


def pass_gate(path: str) -> None:
    """Wait until ``path`` exists; ``path.waiting`` tells that somebody does."""
    with open(f"{path}.waiting", "w"):
        pass
    while not os.path.exists(path):
        time.sleep(0.005)


def append_line(path: str, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, line.encode() + b"\n")
    os.close(descriptor)


class Client:
    """One connection: reads requests, answers them."""

    def __init__(self, connection: socket.socket, release: str, behaviour: Behaviour) -> None:
        self.connection, self.release, self.behaviour = connection, release, behaviour
        self.buffer = b""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self) -> None:
        data = self.connection.recv(262144)
        if not data:
            raise ConnectionResetError("client left")
        self.buffer += data

    def read_until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            self.receive()
        data, _, self.buffer = self.buffer.partition(end)
        return data

    def read_exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self.receive()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def run(self) -> None:
        try:
            while self.exchange():
                pass
        except OSError:
            pass  # the client left: that is its right
        finally:
            self.connection.close()

    def exchange(self) -> bool:
        head = self.read_until(b"\r\n\r\n").decode("latin-1")
        request_line, *lines = head.split("\r\n")
        _method, target, _version = request_line.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = self.read_body(headers)
        path, _, query = target.partition("?")
        if self.behaviour.is_mute:
            threading.Event().wait()
        if path == "/ws":
            self.websocket(headers)
            return False
        if path == "/sse":
            self.server_sent_events(query)
            return False
        self.answer(path, query, headers, body)
        return headers.get("connection", "").lower() != "close"

    def read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.read_until(b"\r\n"), 16):
                body += self.read_exactly(size)
                self.read_until(b"\r\n")
            self.read_until(b"\r\n")
            return body
        return self.read_exactly(int(headers.get("content-length", "0")))

    def reply(self, body: bytes | str | dict[str, Any], status: int = 200) -> None:
        if isinstance(body, dict):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        head = f"HTTP/1.1 {status} Status\r\nContent-Length: {len(body)}\r\nX-Release: {self.release}\r\n\r\n"
        self.connection.sendall(head.encode() + body)

    def answer(self, path: str, query: str, headers: dict[str, str], body: bytes) -> None:
        match path:
            case "/ping":
                gate = self.behaviour.ping_gate
                self.reply("pong", 503 if gate and not os.path.exists(gate) else self.behaviour.ping_status)
            case "/echo":
                self.reply(body)
            case "/env":
                self.reply(dict(os.environ))
            case "/headers":
                self.reply(headers)
            case "/gate":
                pass_gate(query)
                self.reply("passed")
            case "/bytes":
                self.reply(b"x" * int(query))
            case "/crash":
                os._exit(int(query or "7"))
            case "/forks":
                self.reply({"forked": leave_grandchildren(int(query))})
            case "/say":
                say(query)
                self.reply("said")
            case "/where":
                self.reply({"cwd": os.getcwd(), "file": os.path.realpath(__file__)})
            case _:
                self.reply({"release": self.release, "pid": os.getpid()})

    def server_sent_events(self, gate: str) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.connection.sendall(head + b"d\r\ndata: first\n\n\r\n")
        pass_gate(gate)
        self.connection.sendall(b"e\r\ndata: second\n\n\r\n0\r\n\r\n")

    def websocket(self, headers: dict[str, str]) -> None:
        import base64
        import hashlib

        key = headers["sec-websocket-key"].encode()
        accept = base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest()).decode()
        head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.connection.sendall(f"{head}Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        while True:
            first, second = self.read_exactly(2)
            size = second & 0x7F
            if size == 126:
                size = int.from_bytes(self.read_exactly(2), "big")
            mask = self.read_exactly(4)
            text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.read_exactly(size)))
            if first & 0x0F == 8:
                self.connection.sendall(b"\x88\x00")
                return
            payload = f"{self.release}:{os.getpid()}:".encode() + text
            length = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
            self.connection.sendall(b"\x81" + length + payload)


def leave_grandchildren(count: int) -> int:
    """Double-fork ``count`` processes that outlive their parent for a moment and then exit."""
    for _ in range(count):
        child = os.fork()
        if not child:
            if not os.fork():
                os.setsid()
            os._exit(0)
        os.waitpid(child, 0)
    return count


def listen(port: int, host: str, behaviour: Behaviour) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        say(f"cannot bind {host}:{port}: {error}")
        if not behaviour.stays_without_port:
            sys.exit(98)
        threading.Event().wait()
    listener.listen(512)
    return listener


def main() -> None:
    port, host = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    data: dict[str, Any] = {}
    if os.path.exists("behaviour.json"):
        with open("behaviour.json") as file:
            data = json.load(file)
    behaviour = Behaviour(data)
    release = os.environ.get("ROLLBRIDGE_RELEASE_ID", "?")

    def on_term(_signum: int, _frame: object) -> None:
        if behaviour.ignores_term:
            say("SIGTERM ignored")
            return
        if behaviour.term_gate:
            pass_gate(behaviour.term_gate)
        os._exit(0)

    signal.signal(signal.SIGTERM, on_term)
    for line in behaviour.lines:
        say(line)
    if behaviour.boot_gate:
        pass_gate(behaviour.boot_gate)
    if behaviour.exit_code is not None:
        sys.exit(behaviour.exit_code)
    if behaviour.listen == "no":
        threading.Event().wait()
    listener = listen(0 if behaviour.listen == "elsewhere" else port, host, behaviour)
    say(f"{release} listens on {listener.getsockname()[1]}")
    while True:
        connection, _address = listener.accept()
        threading.Thread(target=Client(connection, release, behaviour).run, daemon=True).start()


if __name__ == "__main__":
    main()
