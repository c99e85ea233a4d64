"""A release that does not come up: the old one is untouched, and the operator learns why."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.application import Application, Result
from tests.support.load import Load
from tests.support.ports import listening_stranger
from tests.support.processes import is_running

OUTPUT = "the last words of v2"


@pytest.fixture
def serving_v1(application: Application) -> Application:
    application.processes["web"] = application.stub(health={"timeout": "1s", "interval": "50ms"})
    application.release("v1")
    application.start("v1")
    return application


def assert_v2_failed(application: Application, result: Result, before: tuple[str, int], reason: str) -> None:
    """The promise of every failed deploy."""
    assert application.serving() == before
    assert reason in result.stderr
    assert OUTPUT in result.stderr
    assert "v1 is still serving" in result.stderr
    status = application.status()
    assert status["active_release_id"] == "v1"
    failure = status["last_failure"]
    assert failure["release_id"] == "v2"
    assert reason in failure["message"] + failure["probe"]
    assert OUTPUT in failure["lines"]
    assert failure["phase"] in ("start", "health")
    v2 = application.release_status("v2")
    assert v2["state"] == "failed"
    pids = [process["pid"] for process in v2["processes"] if process["pid"]]
    assert not any(is_running(pid) for pid in pids)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "exits_at_once": ({"exit_code": 3}, "3"),
    "answers_500": ({"ping_status": 500}, "answered 500"),
    "never_listens": ({"listen": "no"}, "refused"),
    "listens_on_another_port": ({"listen": "elsewhere"}, "refused"),
    "accepts_and_never_answers": ({"is_mute": True}, "not answered within"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_release_leaves_the_old_one_untouched(serving_v1: Application, case: str) -> None:
    behaviour, reason = BROKEN[case]
    serving_v1.release("v2", lines=[OUTPUT], **behaviour)
    before = serving_v1.serving()
    with Load(serving_v1.port) as load:
        load.wait_for_more()
        result = serving_v1.deploy("v2", expect=1)
        load.wait_for_more()
    load.assert_no_failure()
    assert_v2_failed(serving_v1, result, before, reason)


def test_a_process_that_exits_fails_the_deploy_without_waiting_for_its_health_timeout(
    application: Application,
) -> None:
    application.processes["web"] = application.stub(health={"timeout": "10m"})
    application.release("v1", exit_code=3)
    application.start()
    result = application.deploy("v1", expect=1)
    assert "No release is serving" in result.stderr
    assert application.get().status == 503


def test_a_release_that_exits_late_in_its_boot_fails_too(application: Application) -> None:
    application.processes["web"] = application.stub(health={"timeout": "10m"})
    gate = application.gate("boot")
    application.release("v1")
    application.release("v2", boot_gate=gate, exit_code=5, lines=[OUTPUT])
    application.start("v1")
    before = application.serving()
    deploy = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    gate.open()
    result = deploy.finish()
    assert result.code == 1
    assert_v2_failed(application, result, before, "5")


def test_the_same_id_can_be_deployed_again_after_it_failed(serving_v1: Application) -> None:
    serving_v1.release("v2", exit_code=3)
    serving_v1.deploy("v2", expect=1)
    serving_v1.release("v2")
    serving_v1.deploy("v2")
    assert serving_v1.serving()[0] == "v2"
    assert serving_v1.status()["last_failure"] is None


@pytest.fixture
def answering_stranger() -> Iterator[list[socket.socket]]:
    """Listeners put into this list answer every request with 200, until the test ends."""
    listeners: list[socket.socket] = []
    yield listeners
    for listener in listeners:
        # Wakes the accept; a close alone would leave the thread in it.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def answer_everything(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


@pytest.mark.parametrize("stays", [False, True], ids=["app_exits", "app_stays"])
def test_a_stranger_that_takes_the_port_before_the_app_never_passes_for_it(
    serving_v1: Application, answering_stranger: list[socket.socket], stays: bool
) -> None:
    gate = serving_v1.gate("boot")
    serving_v1.release("v2", boot_gate=gate, lines=[OUTPUT], stays_without_port=stays)
    before = serving_v1.serving()
    deploy = serving_v1.spawn(*serving_v1.deploy_arguments("v2"))
    gate.wait_reached()
    (port,) = serving_v1.release_status("v2")["ports"]["web"]
    answering_stranger.append(listening_stranger(port))
    threading.Thread(target=answer_everything, args=(answering_stranger[-1],), daemon=True).start()
    gate.open()
    result = deploy.finish()
    assert result.code == 1
    assert_v2_failed(serving_v1, result, before, "does not belong to" if stays else "98")


def test_a_port_that_a_stranger_holds_is_passed_over(application: Application) -> None:
    application.release("v1")
    with listening_stranger(application.web_ports[0]):
        application.start("v1")
        assert application.serving()[0] == "v1"
        assert application.release_status("v1")["ports"]["web"] != [application.web_ports[0]]


def test_an_exhausted_range_says_where_its_ports_are(application: Application) -> None:
    first = application.web_ports[0]
    application.processes["web"] = application.stub(port={"from": first, "to": first + 1})
    application.release("v1")
    application.release("v2")
    application.start("v1")
    before = application.serving()
    (own,) = application.release_status("v1")["ports"]["web"]
    other = first if own != first else first + 1
    with listening_stranger(other):
        result = application.deploy("v2", expect=1)
    assert "1 reserved" in result.stderr
    assert "1 in use" in result.stderr
    assert "0 not bindable" in result.stderr
    assert application.serving() == before
    application.deploy("v2")


def test_a_release_path_that_does_not_exist_is_refused(serving_v1: Application) -> None:
    before = serving_v1.serving()
    missing = serving_v1.root / "releases" / "missing"
    result = serving_v1.deploy(missing, expect=2)
    assert str(missing) in result.stderr
    assert "does not exist" in result.stderr
    assert serving_v1.serving() == before


@pytest.mark.parametrize("form", ["string", "array"])
def test_a_command_that_does_not_exist_fails_the_deploy_with_its_name(application: Application, form: str) -> None:
    application.release("v1")
    application.release("v2")
    application.start("v1")
    before = application.serving()
    command = "no-such-server --port {{port}}"
    application.processes["web"]["command"] = command if form == "string" else command.split()
    application.write_config()
    result = application.deploy("v2", expect=1)
    assert "no-such-server" in result.stderr
    assert application.serving() == before


def test_a_working_directory_that_does_not_exist_fails_the_deploy_with_its_name(application: Application) -> None:
    application.processes["web"]["cwd"] = "{{release_path}}/nowhere"
    application.release("v1")
    application.start()
    result = application.deploy("v1", expect=1)
    assert "nowhere" in result.stderr


def test_a_companion_that_exits_with_an_error_fails_the_deploy_and_takes_the_rest_with_it(
    application: Application,
) -> None:
    application.processes["web"]["health"] = {"timeout": "10m"}
    application.processes["jobs"] = application.worker(env={"EXIT_CODE": "7"})
    application.release("v1", listen="no")
    application.start()
    result = application.deploy("v1", expect=1)
    assert "jobs" in result.stderr
    assert "worker gives up with 7" in result.stderr
    assert application.release_status("v1")["state"] == "failed"
