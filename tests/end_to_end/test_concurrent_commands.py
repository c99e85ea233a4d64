"""Commands that meet: one operation at a time, and clients that come and go."""

from __future__ import annotations

import signal

import pytest

from tests.support.application import Application, Gate
from tests.support.processes import send
from tests.support.waiting import wait_until


@pytest.fixture
def booting(application: Application) -> tuple[Application, Gate]:
    """v1 serves; v2 waits in its boot at the gate when it is deployed."""
    gate = application.gate("boot")
    application.release("v1")
    application.release("v2", boot_gate=gate)
    application.release("v3")
    application.start("v1")
    return application, gate


def test_a_second_deploy_is_refused_while_one_runs(booting: tuple[Application, Gate]) -> None:
    application, gate = booting
    first = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    result = application.deploy("v3", expect=4)
    assert "v2" in result.stderr
    assert application.run("rollback", expect=4).code == 4
    gate.open()
    assert first.finish().code == 0
    assert application.serving()[0] == "v2"


def test_a_second_deploy_with_wait_takes_its_turn(booting: tuple[Application, Gate]) -> None:
    application, gate = booting
    first = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    second = application.spawn(*application.deploy_arguments("v3", "--wait"))
    wait_until(lambda: len(application.events("deploy requested")) == 3, "the second deploy has reached the daemon")
    assert application.status()["operation"] == "deploy v2"
    gate.open()
    assert first.finish().code == 0
    assert second.finish().code == 0
    assert application.serving()[0] == "v3"
    wait_until(lambda: application.state_of("v2") == "stopped", "v2 is retired")


def test_a_client_killed_in_the_middle_does_not_cancel_its_deploy(booting: tuple[Application, Gate]) -> None:
    application, gate = booting
    client = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    client.kill()
    gate.open()
    wait_until(lambda: application.status()["active_release_id"] == "v2", "v2 becomes active all the same")
    assert application.serving()[0] == "v2"
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is retired")


def test_ctrl_c_leaves_the_deploy_to_the_daemon_and_says_so(booting: tuple[Application, Gate]) -> None:
    application, gate = booting
    client = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    send(client.pid, signal.SIGINT)
    result = client.finish()
    assert result.code != 0
    assert "goes on" in result.stderr
    assert "Traceback" not in result.stderr
    gate.open()
    wait_until(lambda: application.status()["active_release_id"] == "v2", "v2 becomes active all the same")


def test_shutdown_in_the_middle_of_a_deploy_leaves_nothing(booting: tuple[Application, Gate]) -> None:
    application, gate = booting
    deploy = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    application.shutdown()
    result = deploy.finish()
    assert result.code != 0
    assert "Traceback" not in result.stderr


def test_a_waiting_deploy_is_refused_by_the_shutdown_that_overtakes_it(booting: tuple[Application, Gate]) -> None:
    application, gate = booting
    first = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    second = application.spawn(*application.deploy_arguments("v3", "--wait"))
    wait_until(lambda: len(application.events("deploy requested")) == 3, "the second deploy has reached the daemon")
    application.shutdown()
    assert first.finish().code != 0
    assert second.finish().code != 0


def test_status_answers_while_a_deploy_waits(booting: tuple[Application, Gate]) -> None:
    application, gate = booting
    deploy = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    status = application.run("status", "--json").json
    assert status["active_release_id"] == "v1"
    assert application.state_of("v2") == "starting"
    assert application.serving()[0] == "v1"
    gate.open()
    assert deploy.finish().code == 0


def test_a_slow_stop_of_the_old_release_does_not_keep_the_next_deploy_out(application: Application) -> None:
    gate = application.gate("term")
    application.release("v1", term_gate=gate)
    application.release("v2")
    application.release("v3")
    application.start("v1")
    application.deploy("v2")
    gate.wait_reached()
    application.deploy("v3")
    assert application.serving()[0] == "v3"
    assert application.state_of("v1") == "draining"
    gate.open()
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped in the end")
