from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollbridge.control.client import CommandFailed, ControlClient
from rollbridge.control.protocol import MAX_REQUEST_BYTES, Peer, encode
from rollbridge.control.server import ControlServer, Progress, ServerLimits, SocketInUse
from tests.control.support import (
    PATIENCE_SECONDS,
    Gate,
    ServerThread,
    connect,
    echo,
    read_answer,
    read_answers,
    serving,
)
from tests.support.waiting import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.sock"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def ask(path: Path, **request: object) -> dict[str, object]:
    with ControlClient(str(path)) as client:
        return client.request(request)


def test_requests_of_one_connection_are_answered_in_order(path: Path) -> None:
    with serving(path, echo), connect(path) as client:
        client.sendall(encode({"command": "a", "report": 2}) + encode({"command": "fail"}) + encode({"command": "b"}))
        client.shutdown(socket.SHUT_WR)
        answers = read_answers(client)
    assert [answer.get("progress") for answer in answers[:2]] == [{"number": 0}, {"number": 1}]
    assert answers[2]["request"]["command"] == "a"
    assert answers[3] == {"status": "error", "error": "it was refused", "exit_code": 4, "holder": 7}
    assert answers[4]["request"]["command"] == "b"
    assert len(answers) == 5


def test_the_handler_knows_who_asks(path: Path) -> None:
    with serving(path, echo):
        assert ask(path, command="a")["peer"] == [os.getpid(), os.geteuid(), os.getegid()]


@pytest.mark.parametrize(
    "line", [b"\n", b"{\n", b"[]\n", b"\xff\xfe\n", b"{}\n", b'{"command":1}\n', b"[" * 9999 + b"\n"]
)
def test_what_is_no_request_is_answered_and_survived(path: Path, line: bytes) -> None:
    with serving(path, echo), connect(path) as client:
        client.sendall(line)
        answer = read_answer(client)
        assert (answer["status"], answer["exit_code"]) == ("error", 2)
        client.sendall(encode({"command": "still here"}))
        assert read_answer(client)["status"] == "success"


def test_a_request_of_exactly_the_limit_is_taken(path: Path) -> None:
    request = encode({"command": "a", "x": ""})
    line = request.replace(b'""', b'"' + b"y" * (MAX_REQUEST_BYTES - len(request) + 1) + b'"')
    assert len(line) == MAX_REQUEST_BYTES + 1  # with the newline
    with serving(path, echo), connect(path) as client:
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        assert [answer["status"] for answer in read_answers(client)] == ["success"]


def test_a_request_over_the_limit_is_answered_and_its_rest_swallowed(path: Path) -> None:
    with serving(path, echo), connect(path) as client:
        client.sendall(b"x" * (5 * MAX_REQUEST_BYTES) + b"\n" + encode({"command": "smuggled"}))
        client.shutdown(socket.SHUT_WR)
        (answer,) = read_answers(client)
        assert answer["exit_code"] == 2 and "longer than" in answer["error"]
        assert ask(path, command="others")["status"] == "success"


def test_a_defect_is_answered_and_told_to_the_loop(path: Path) -> None:
    with serving(path, echo) as server:
        with pytest.raises(CommandFailed, match="internal error: ZeroDivisionError"):
            ask(path, command="defect")
        assert isinstance(server.defects[0]["exception"], ZeroDivisionError)
        assert ask(path, command="a")["status"] == "success"


def test_a_client_that_leaves_does_not_cancel_what_it_asked_for(path: Path, gate: Gate) -> None:
    with serving(path, gate):
        with connect(path) as client:
            client.sendall(encode({"command": "deploy"}))
            assert gate.entered.wait(PATIENCE_SECONDS)
        gate.open()
        assert gate.finished.wait(PATIENCE_SECONDS)
        assert not gate.cancelled.is_set()


def test_a_watch_ends_when_its_client_leaves(path: Path, gate: Gate) -> None:
    with serving(path, gate):
        with connect(path) as client:
            client.sendall(encode({"command": "logs", "follow": True}))
            assert gate.entered.wait(PATIENCE_SECONDS)
        assert gate.cancelled.wait(PATIENCE_SECONDS)


def test_a_watch_goes_on_for_a_client_that_only_has_no_more_to_say(path: Path, gate: Gate) -> None:
    with serving(path, gate), connect(path) as client:
        client.sendall(encode({"command": "logs", "follow": True}))
        client.shutdown(socket.SHUT_WR)
        assert gate.entered.wait(PATIENCE_SECONDS)
        gate.open()
        assert read_answer(client) == {"status": "success", "command": "logs"}
        assert not gate.cancelled.is_set()


def test_a_half_closed_client_gets_its_answer(path: Path, gate: Gate) -> None:
    with serving(path, gate), connect(path) as client:
        client.sendall(encode({"command": "deploy"}))
        client.shutdown(socket.SHUT_WR)
        assert gate.entered.wait(PATIENCE_SECONDS)
        gate.open()
        assert [answer["status"] for answer in read_answers(client)] == ["success"]


def test_idle_clients_never_lock_out_a_real_one(path: Path) -> None:
    with serving(path, echo, ServerLimits(clients=8)), contextlib.ExitStack() as stack:
        for _ in range(40):
            idle = stack.enter_context(connect(path))
            idle.send(b'{"comma')
        assert ask(path, command="a")["status"] == "success"


def test_clients_that_watch_make_room_but_those_that_work_do_not(path: Path, gate: Gate) -> None:
    with serving(path, gate, ServerLimits(clients=2)), contextlib.ExitStack() as stack:
        worker, watcher = (stack.enter_context(connect(path)) for _ in range(2))
        worker.sendall(encode({"command": "deploy"}))
        assert gate.entered.wait(PATIENCE_SECONDS)
        gate.entered.clear()
        watcher.sendall(encode({"command": "logs", "follow": True}))
        assert gate.entered.wait(PATIENCE_SECONDS)
        assert ask(path, command="ping")["status"] == "success"
        assert gate.cancelled.wait(PATIENCE_SECONDS)

        gate.entered.clear()
        second = stack.enter_context(connect(path))
        second.sendall(encode({"command": "rollback"}))
        assert gate.entered.wait(PATIENCE_SECONDS)
        with connect(path) as third:
            answer = read_answer(third)
        assert answer["exit_code"] == 4 and "try again" in answer["error"]
        gate.open()
        assert read_answer(worker)["command"] == "deploy"


def test_a_client_without_a_request_is_closed_after_a_while(path: Path) -> None:
    with serving(path, echo, ServerLimits(idle_seconds=0.05)), connect(path) as client:
        client.sendall(b'{"comm')
        assert client.recv(1) == b""


def test_a_client_that_does_not_read_is_dropped_and_its_deploy_goes_on(path: Path, gate: Gate) -> None:
    with serving(path, gate, ServerLimits(unread_bytes=100_000)) as server, connect(path) as client:
        client.sendall(encode({"command": "deploy"}))
        assert gate.entered.wait(PATIENCE_SECONDS)
        progress = gate.progress
        assert progress is not None

        async def flood() -> None:
            for _ in range(1000):
                progress({"message": "x" * 10_000})
                await asyncio.sleep(0)

        server.run(flood())
        gate.open()
        assert gate.finished.wait(PATIENCE_SECONDS)
        with contextlib.suppress(ConnectionResetError):
            assert len(b"".join(iter(lambda: client.recv(65536), b""))) < 2_000_000


def test_out_of_descriptors_is_survived(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(path, echo) as server, socket.socket(socket.AF_UNIX) as real:
        real.settimeout(PATIENCE_SECONDS)
        clients = []
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 12, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    clients.append(client)
                    client.connect(str(path))
            # Every descriptor is taken, and idle clients wait to be accepted before the real one. With a single
            # descriptor the server gets through to it, by giving back what the idle ones hold.
            clients.pop(0).close()
            real.connect(str(path))
            real.sendall(encode({"command": "a"}))
            assert read_answer(real)["status"] == "success"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for client in clients:
                client.close()
        assert ask(path, command="b")["status"] == "success"
        assert not server.defects


def test_close_answers_what_is_in_flight_before_the_connection_ends(path: Path, gate: Gate) -> None:
    server = ServerThread(path, gate)
    with connect(path) as client, connect(path) as idle:
        client.sendall(encode({"command": "shutdown"}))
        assert gate.entered.wait(PATIENCE_SECONDS)
        closing = server.submit(server.server.close(PATIENCE_SECONDS))
        wait_until(lambda: not path.exists(), "the socket disappears at once")
        gate.open()
        assert [answer["command"] for answer in read_answers(client)] == ["shutdown"]
        closing.result(PATIENCE_SECONDS)
        assert idle.recv(1) == b""
    server.close()


def test_close_does_not_wait_for_a_handler_beyond_its_grace(path: Path, gate: Gate) -> None:
    server = ServerThread(path, gate)
    with connect(path) as client:
        client.sendall(encode({"command": "deploy"}))
        assert gate.entered.wait(PATIENCE_SECONDS)
        server.close(grace=0.05)
        (answer,) = read_answers(client)
    assert answer["error"] == "the daemon is shutting down"
    assert gate.cancelled.is_set()


def test_close_does_not_wait_for_clients_that_do_not_read_or_close(path: Path) -> None:
    server = ServerThread(path, echo)
    with connect(path) as deaf:
        deaf.sendall(encode({"command": "a", "x": "y" * 1_000_000, "report": 1000}))
        assert read_answer(deaf)["progress"] == {"number": 0}
        server.close(grace=0.2)
    assert not path.exists()


def test_a_handler_may_close_the_server_it_is_answering_through(path: Path) -> None:
    servers: list[ServerThread] = []

    async def handler(request: dict[str, object], progress: Progress, peer: Peer) -> dict[str, object]:
        servers[0].server.stop_listening()
        return {"status": "success", "is_there": path.exists()}

    with serving(path, handler) as server:
        servers.append(server)
        assert ask(path, command="shutdown")["is_there"] is False


def test_a_second_server_is_refused_and_a_successor_keeps_its_socket(path: Path) -> None:
    async def story() -> None:
        first = ControlServer(str(path), 0o600, None, None, echo)
        await first.start()
        with pytest.raises(SocketInUse):
            await ControlServer(str(path), 0o600, None, None, echo).start()
        path.unlink()
        second = ControlServer(str(path), 0o600, None, None, echo)
        await second.start()
        await first.close(1)
        answer = await asyncio.to_thread(ask, path, command="a")
        assert answer["status"] == "success"
        await second.close(1)
        assert not path.exists()

    asyncio.run(story())


def test_closed_and_started_again_without_a_delay_two_hundred_times(path: Path) -> None:
    async def story() -> None:
        for _ in range(200):
            server = ControlServer(str(path), 0o600, None, None, echo)
            await server.start()
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(path))
            await server.close(1)
            connection.close()
            assert not path.exists()

    asyncio.run(story())


def test_many_clients_at_once_are_all_answered(path: Path) -> None:
    failures: list[BaseException] = []

    def client() -> None:
        try:
            for number in range(10):
                answer = ask(path, command="a", number=number)
                assert json.dumps(answer["request"]) == json.dumps({"command": "a", "number": number})
        except BaseException as error:
            failures.append(error)

    with serving(path, echo):
        threads = [threading.Thread(target=client) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
    assert not failures


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_stranger_that_got_through_the_mode_is_turned_away(public_directory: Path) -> None:
    path = public_directory / "c.sock"
    with serving(path, echo):
        path.chmod(0o666)  # somebody widened it behind our back
        os.seteuid(65534)
        try:
            with connect(path) as client:
                answer = read_answer(client)
        finally:
            os.seteuid(0)
    assert answer["exit_code"] == 4 and "may not use control socket" in answer["error"]
