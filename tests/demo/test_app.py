from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollbridge.demo import content, websocket
from rollbridge.demo.app import BROKEN_EXIT_CODE, Release, read_release
from rollbridge.demo.client import Answer, Attempt, HttpClient, RequestFailed, WebSocketClient
from rollbridge.demo.websocket import CloseCode, MessageReader, Opcode
from tests.demo.waiting import wait_until

CODE = "import sys; from rollbridge.demo.app import main; sys.exit(main(sys.argv[1:]))"


@contextlib.contextmanager
def run_app(directory: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The app of release v1 in a process of its own, and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {**os.environ, "ROLLBRIDGE_RELEASE_ID": "v1", "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, "--port", str(port)],
        cwd=directory,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"release v1 listens on 127.0.0.1:{port}\n"
        yield process, port
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with run_app(tmp_path) as running:
        yield running


def ask(port: int, target: str, method: str = "GET", body: bytes | None = None, length: int | None = None) -> Answer:
    async def run() -> Answer:
        client = HttpClient("127.0.0.1", port, time.monotonic)
        pieces = None if body is None else [body]
        return await client.request(Attempt(0.0), method, target, body=pieces, length=length, is_last=True)

    return asyncio.run(run())


def exchange(port: int, data: bytes) -> bytes:
    """Everything that comes back for ``data``, until the app closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def shake_hands(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    key = base64.b64encode(b"k" * 16)
    connection.sendall(
        b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return connection


def read_messages(connection: socket.socket) -> list[websocket.Message]:
    """Every message until the app closes the connection."""
    reader = MessageReader(expects_mask=False)
    return [message for data in iter(lambda: connection.recv(65536), b"") for message in reader.feed(data)]


def test_home_names_the_release_and_ping_is_well(app: tuple[subprocess.Popen[str], int]) -> None:
    process, port = app
    assert json.loads(ask(port, "/").data) == {"release": "v1", "pid": process.pid, "path": "/"}
    assert json.loads(ask(port, "/ping").data)["status"] == "ok"


@pytest.mark.parametrize("size", [0, 1, content.BLOCK_BYTES, content.BLOCK_BYTES + 1, 300000])
@pytest.mark.parametrize("is_chunked", [0, 1])
def test_download_is_the_content_that_was_asked_for(
    app: tuple[subprocess.Popen[str], int], size: int, is_chunked: int
) -> None:
    answer = ask(app[1], f"/download?bytes={size}&chunked={is_chunked}")
    assert len(answer.data) == size
    assert answer.sha256 == content.checksum(size)
    assert answer.head.is_chunked is bool(is_chunked)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_upload_is_counted_and_summed(app: tuple[subprocess.Popen[str], int], is_chunked: bool) -> None:
    body = b"".join(content.pieces(200000))
    answer = ask(app[1], "/upload", "PUT", body, None if is_chunked else len(body))
    assert json.loads(answer.data) == {"bytes": 200000, "sha256": content.checksum(200000)}


def test_slow_answer_takes_its_time_and_has_an_end(app: tuple[subprocess.Popen[str], int]) -> None:
    begun_at = time.monotonic()
    answer = ask(app[1], "/slow?seconds=0.3")
    assert time.monotonic() - begun_at >= 0.3
    assert answer.data.endswith(b"\ndone\n")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/nowhere", b"404"),
        ("/download?bytes=x", b"400"),
        ("/download?bytes=-1", b"400"),
        ("/slow?seconds=nan", b"400"),
    ],
)
def test_wrong_request_is_answered(app: tuple[subprocess.Popen[str], int], target: str, status: bytes) -> None:
    data = exchange(app[1], b"GET " + target.encode() + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert data.startswith(b"HTTP/1.1 " + status)


def test_requests_sent_at_once_are_answered_in_order(app: tuple[subprocess.Popen[str], int]) -> None:
    requests = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
    requests += b"HEAD /ping HTTP/1.1\r\nHost: a\r\n\r\nGET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    upload, head, last = exchange(app[1], requests).split(b"HTTP/1.1 ")[1:]
    assert b'"bytes": 2' in upload
    assert head.endswith(b"\r\n\r\n")
    assert last.startswith(b"404")


def test_old_client_gets_its_answer_and_the_end(app: tuple[subprocess.Popen[str], int]) -> None:
    assert b'"release": "v1"' in exchange(app[1], b"GET / HTTP/1.0\r\n\r\n")


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"x" * 100000, b"GET / HTTP"])
def test_garbage_is_survived(app: tuple[subprocess.Popen[str], int], data: bytes) -> None:
    with (
        socket.create_connection(("127.0.0.1", app[1]), timeout=10) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(65536)
    assert ask(app[1], "/ping").data


def test_websocket_greets_echoes_pongs_and_closes(app: tuple[subprocess.Popen[str], int]) -> None:
    with shake_hands(app[1]) as connection:
        for opcode, payload in [(Opcode.TEXT, b"hello"), (Opcode.PING, b"?"), (Opcode.BINARY, b"\xff" * 70000)]:
            connection.sendall(websocket.encode_frame(opcode, payload, mask=b"mask"))
        connection.sendall(websocket.encode_close(CloseCode.NORMAL, mask=b"mask"))
        greeting, *others = read_messages(connection)
    assert json.loads(greeting.data)["release"] == "v1"
    assert others[:3] == [
        websocket.Message(Opcode.TEXT, b"hello"),
        websocket.Message(Opcode.PONG, b"?"),
        websocket.Message(Opcode.BINARY, b"\xff" * 70000),
    ]
    assert websocket.close_code(others[3].data) == CloseCode.NORMAL


def test_broken_frame_is_answered_with_a_close_that_says_why(app: tuple[subprocess.Popen[str], int]) -> None:
    with shake_hands(app[1]) as connection:
        connection.sendall(websocket.encode_frame(Opcode.TEXT, b"not masked"))
        close = read_messages(connection)[-1]
    assert websocket.close_code(close.data) == CloseCode.PROTOCOL_ERROR


def test_handshake_without_a_key_is_refused(app: tuple[subprocess.Popen[str], int]) -> None:
    data = exchange(app[1], b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
    assert data.startswith(b"HTTP/1.1 426 ")


def test_stopped_app_finishes_what_it_has_and_takes_nothing_new(app: tuple[subprocess.Popen[str], int]) -> None:
    process, port = app
    idle = socket.create_connection(("127.0.0.1", port), timeout=10)
    slow = socket.create_connection(("127.0.0.1", port), timeout=10)
    slow.sendall(b"GET /slow?seconds=1 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert slow.recv(12) == b"HTTP/1.1 200"
    with shake_hands(port) as connection, idle, slow:
        process.send_signal(signal.SIGTERM)
        close = read_close(connection)
        assert websocket.close_code(close.data) == CloseCode.GOING_AWAY
        connection.sendall(websocket.encode_close(CloseCode.GOING_AWAY, mask=b"mask"))
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=10)
        rest = b"".join(iter(lambda: slow.recv(65536), b""))
        assert rest.endswith(b"done\n\r\n0\r\n\r\n")
    assert process.wait(10) == 0


def read_close(connection: socket.socket) -> websocket.Message:
    reader = MessageReader(expects_mask=False)
    while True:
        for message in reader.feed(connection.recv(65536)):
            if message.opcode is Opcode.CLOSE:
                return message


def test_stop_does_not_wait_for_ever_for_a_websocket_that_does_not_answer(
    app: tuple[subprocess.Popen[str], int],
) -> None:
    with shake_hands(app[1]):
        app[0].send_signal(signal.SIGTERM)
        assert app[0].wait(10) == 0


def test_broken_release_answers_500_and_exits_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "release.json").write_text('{"is_broken": true}')
    with run_app(tmp_path) as (process, port):
        with pytest.raises(RequestFailed, match="500"):
            ask(port, "/ping")
        _, errors = process.communicate(timeout=10)
        assert process.returncode == BROKEN_EXIT_CODE
        assert errors.startswith("giving up: ")


def test_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with run_app(tmp_path) as (_, port):
        second = subprocess.run(
            [sys.executable, "-c", CODE, "--port", str(port)], capture_output=True, text=True, timeout=20, check=False
        )
        assert second.returncode == 1
        assert second.stderr == f"cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_release_without_a_definition_is_not_broken(tmp_path: Path) -> None:
    assert read_release(tmp_path, {"ROLLBRIDGE_RELEASE_ID": "r9"}) == Release("r9", is_broken=False)
    assert read_release(tmp_path, {}) == Release("none", is_broken=False)


def test_websocket_client_and_app_understand_each_other(app: tuple[subprocess.Popen[str], int]) -> None:
    async def talk() -> str:
        client = WebSocketClient("127.0.0.1", app[1], time.monotonic)
        await client.open(Attempt(0.0))
        await client.echo(b"x" * 100000)
        await client.close()
        return client.release

    assert asyncio.run(talk()) == "v1"
    wait_until(lambda: app[0].poll() is None)
