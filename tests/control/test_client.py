from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rollbridge.control.client import (
    CommandFailed,
    ControlClient,
    ControlError,
    ControlRefused,
    DaemonSilent,
    DaemonWentAway,
    NoDaemon,
)
from tests.control.support import Gate, echo, serving


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.sock"


@pytest.fixture
def listener(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        yield listener


def answering(listener: socket.socket, story: Callable[[socket.socket], None]) -> threading.Thread:
    """Accept one client and play ``story`` to it."""

    def run() -> None:
        with listener.accept()[0] as connection:
            story(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def ask(path: Path, timeout: float = 15.0) -> dict[str, object]:
    with ControlClient(str(path), connect_seconds=0.1) as client:
        return client.request({"command": "deploy"}, timeout=timeout)


def test_progress_comes_before_the_answer(path: Path) -> None:
    seen: list[dict[str, object]] = []
    with serving(path, echo), ControlClient(str(path)) as client:
        assert client.server.pid == os.getpid()
        answer = client.request({"command": "a", "report": 3}, seen.append)
        assert client.request({"command": "b"})["request"] == {"command": "b"}
    assert seen == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert answer["status"] == "success"


def test_an_error_is_raised_with_its_exit_code_and_data(path: Path) -> None:
    with serving(path, echo), ControlClient(str(path)) as client, pytest.raises(CommandFailed) as raised:
        client.request({"command": "fail"})
    assert (raised.value.message, raised.value.exit_code, raised.value.data) == ("it was refused", 4, {"holder": 7})


def test_no_socket_file_is_no_daemon(path: Path) -> None:
    with pytest.raises(NoDaemon, match="there is no control socket at") as raised:
        ask(path)
    assert raised.value.exit_code == 3


def test_a_socket_nobody_listens_on_is_no_daemon(path: Path, listener: socket.socket) -> None:
    listener.close()
    with pytest.raises(NoDaemon, match="nobody listens on") as raised:
        ask(path)
    assert raised.value.exit_code == 3


def test_a_path_that_is_no_socket_is_said_to_be_none(path: Path) -> None:
    path.write_text("")
    with pytest.raises(ControlError) as raised:
        ask(path)
    assert str(path) in raised.value.message


def test_a_full_backlog_is_a_daemon_that_does_not_answer(path: Path, listener: socket.socket) -> None:
    clients = []
    try:
        while True:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            clients.append(client)
            client.connect(str(path))
    except BlockingIOError:
        pass
    with pytest.raises(DaemonSilent) as raised:
        ask(path)
    assert raised.value.exit_code == 3
    for client in clients:
        client.close()


def test_a_daemon_that_accepts_and_stays_silent_is_told_from_none(path: Path, listener: socket.socket) -> None:
    with pytest.raises(DaemonSilent, match=r"does not answer: control socket .* accepts"):
        ask(path, timeout=0.05)


def test_a_daemon_that_goes_away_leaves_the_outcome_open(path: Path, listener: socket.socket) -> None:
    received: list[bytes] = []
    answering(listener, lambda connection: received.append(connection.recv(100)))
    with pytest.raises(DaemonWentAway, match=r"went away before it answered `deploy`.*rollbridge status"):
        ask(path)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n", b"[]\n", b"\xff\n"])
def test_an_answer_of_something_else_is_not_believed(path: Path, listener: socket.socket, answer: bytes) -> None:
    answering(listener, lambda connection: connection.sendall(answer))
    with pytest.raises(ControlError, match="not rollbridge's"):
        ask(path)


@pytest.mark.parametrize(
    "answer", [b"{}\n", b'{"status":"error"}\n', b'{"status":"error","error":7,"exit_code":0}\n', b'{"status":1}\n']
)
def test_an_error_that_explains_nothing_is_still_an_error(path: Path, listener: socket.socket, answer: bytes) -> None:
    answering(listener, lambda connection: connection.sendall(answer))
    with pytest.raises(CommandFailed) as raised:
        ask(path)
    assert raised.value.exit_code == 1


def test_an_answer_to_a_refused_connection_is_read_though_the_request_was_not(
    path: Path, listener: socket.socket
) -> None:
    thread = answering(
        listener, lambda connection: connection.sendall(b'{"status":"error","error":"not you","exit_code":4}\n')
    )
    with ControlClient(str(path)) as client:
        thread.join(20)
        with pytest.raises(CommandFailed, match="not you"):
            client.request({"command": "deploy"})


def test_a_request_over_the_limit_is_not_sent(path: Path) -> None:
    with serving(path, echo), ControlClient(str(path)) as client:
        with pytest.raises(CommandFailed, match="the limit is"):
            client.request({"command": "a", "x": "y" * 1_048_576})
        assert client.request({"command": "a"})["status"] == "success"


def test_waiting_ticks(path: Path) -> None:
    gate = Gate()
    with serving(path, gate), ControlClient(str(path)) as client:
        assert client.request({"command": "deploy"}, timeout=None, on_tick=gate.open)["status"] == "success"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_socket_served_by_a_stranger_is_sent_nothing(path: Path) -> None:
    received: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        os.seteuid(65534)
        try:
            listener.listen(1)  # the kernel remembers who listened
        finally:
            os.seteuid(0)
        thread = answering(listener, lambda connection: received.append(connection.recv(100)))
        with pytest.raises(ControlRefused, match="neither root, nor you") as raised:
            ask(path)
        thread.join(20)
        assert raised.value.exit_code == 4
        assert received == [b""]
        answering(listener, lambda connection: connection.sendall(b'{"status":"success"}\n'))
        with ControlClient(str(path), owner="65534") as client:
            assert client.request({"command": "a"}) == {"status": "success"}
