"""The control socket: who may, and what no client can do to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Iterator
from errno import EISCONN
from pathlib import Path

import pytest

from tests.support.application import Application, python_command
from tests.support.processes import count_fds, kill_and_wait
from tests.support.waiting import wait_until

NOBODY = 65534


@contextlib.contextmanager
def client(application: Application) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        # A full backlog refuses a socket with a timeout at once (EAGAIN): the daemon is busy, not dead.
        wait_until(
            lambda: connection.connect_ex(str(application.control_path)) in (0, EISCONN), "a place in the backlog"
        )
        yield connection


def read_answer(connection: socket.socket) -> dict[str, object]:
    with connection.makefile("rb") as lines:
        answer: dict[str, object] = json.loads(lines.readline())
        return answer


def mode_of(application: Application) -> int:
    return stat.S_IMODE(application.control_path.stat().st_mode)


def test_it_is_private_by_default(application: Application) -> None:
    application.start()
    assert mode_of(application) == 0o600
    assert stat.S_ISSOCK(application.control_path.stat().st_mode)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away")
def test_mode_owner_and_group_are_as_configured(application: Application) -> None:
    application.config["control"].update(mode="660", owner=str(NOBODY), group=str(NOBODY))
    application.start()
    assert mode_of(application) == 0o660
    status = application.control_path.stat()
    assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY)
    assert application.run("status", "--json").code == 0


def ping_as(application: Application, uid: int) -> str:
    """What ``uid`` is answered; empty when the connection was just closed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        text = b"failed"
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                try:
                    connection.connect(str(application.control_path))
                    connection.sendall(b'{"command": "ping"}\n')
                    text = connection.recv(65536) or b"closed"
                except OSError as error:
                    text = str(error).encode()
        os.write(writing, text)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    return answer


@pytest.mark.skipif(os.getuid() != 0, reason="only root can speak as somebody else")
def test_a_peer_that_is_not_meant_is_refused_whatever_the_mode(application: Application) -> None:
    application.root.chmod(0o755)
    application.start()
    application.control_path.chmod(0o666)
    answer = ping_as(application, NOBODY)
    assert '"success"' not in answer
    assert application.daemon_pid()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can speak as somebody else")
def test_a_configured_owner_is_let_in(application: Application) -> None:
    application.root.chmod(0o755)
    application.config["control"].update(owner=str(NOBODY))
    application.start()
    assert '"success"' in ping_as(application, NOBODY)


def test_a_stale_socket_is_replaced(application: Application) -> None:
    pid = application.start()
    kill_and_wait(pid)
    assert application.daemon is not None
    application.daemon.finish()
    assert application.control_path.exists()
    assert application.run("status", expect=3)
    for worker in application.proxy_workers():
        kill_and_wait(worker.pid)
    application.start_daemon()
    application.release("v1")
    application.deploy("v1")
    assert application.serving()[0] == "v1"


def test_a_socket_that_somebody_deletes_comes_back(application: Application) -> None:
    application.config["control"]["mode"] = "660"
    application.release("v1")
    pid = application.start()
    application.control_path.unlink()
    wait_until(application.control_path.exists, "the socket is there again")
    assert mode_of(application) == 0o660
    assert application.daemon_pid() == pid
    application.deploy("v1")
    application.shutdown()


def test_something_else_at_the_path_is_not_deleted(application: Application) -> None:
    application.control_path.write_text("precious")
    result = application.run("daemon", expect=None)
    assert result.code == 1
    assert result.stderr.count(f"control socket {application.control_path}:") == result.stderr.count("left alone") > 0
    assert application.control_path.read_text() == "precious"
    application.control_path.unlink()


def test_idle_and_half_open_clients_in_any_number_are_harmless(application: Application) -> None:
    application.release("v1")
    pid = application.start()
    before = count_fds(pid)
    with contextlib.ExitStack() as clients:
        for number in range(300):
            connection = clients.enter_context(client(application))
            if number % 3 == 1:
                connection.sendall(b'{"command": "sta')
            elif number % 3 == 2:
                connection.sendall(b'{"command": "status"}\n')
                connection.shutdown(socket.SHUT_WR)
        assert application.run("status", "--json").code == 0
        application.deploy("v1")
        assert application.serving()[0] == "v1"
    wait_until(lambda: count_fds(pid) <= before + 12, lambda: f"{count_fds(pid)} descriptors, {before} before")


def test_idle_clients_do_not_hold_up_a_shutdown(application: Application) -> None:
    application.start()
    with client(application), client(application) as half:
        half.sendall(b'{"command":')
        application.shutdown(timeout=10)


def test_an_oversized_request_is_answered_and_survived(application: Application) -> None:
    application.start()
    with client(application) as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(b'{"command": "' + b"x" * 3_000_000 + b'"}\n')
        answer = read_answer(connection)
        assert answer["status"] == "error"
    assert application.status()["application"] == application.name


MALFORMED = {
    "not json": b"hello\n",
    "not an object": b"[1, 2]\n",
    "no command": b"{}\n",
    "unknown command": b'{"command": "fly"}\n',
    "command of a wrong type": b'{"command": {"a": 1}}\n',
    "not utf-8": b'{"command": "\xff\xfe"}\n',
    "nul bytes": b"\0\0\0\n",
    "deep nesting": b"[" * 100_000 + b"\n",
    "a huge number": b'{"command": "events", "limit": ' + b"9" * 5000 + b"}\n",
    "not a finite number": b'{"command": "events", "limit": NaN}\n',
    "a lone surrogate": b'{"command": "\\ud800"}\n',
    "a field of a wrong type": b'{"command": "deploy", "release_path": 7}\n',
}


@pytest.fixture(scope="module")
def long_lived(pyz: Path) -> Iterator[Application]:

    one = Application(python_command(pyz))
    try:
        one.start()
        yield one
    finally:
        one.close()
        one.remove()


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_request_is_answered_and_survived(long_lived: Application, kind: str) -> None:
    with client(long_lived) as connection:
        connection.sendall(MALFORMED[kind])
        answer = read_answer(connection)
    assert answer["status"] == "error"
    assert "Traceback" not in str(answer)
    assert long_lived.status()["application"] == long_lived.name


def test_requests_in_a_row_on_one_connection_are_answered_in_order(long_lived: Application) -> None:
    with client(long_lived) as connection, connection.makefile("rb") as lines:
        connection.sendall(b'{"command": "ping"}\n')
        assert json.loads(lines.readline())["status"] == "success"
        connection.sendall(b'{"command": "status"}\n')
        line = lines.readline()
        assert not line or json.loads(line)["status"] == "success"
