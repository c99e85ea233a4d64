"""The end: everything stopped, nothing left, and nobody who can hold it up."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.application import Application
from tests.support.http import HttpConnection
from tests.support.processes import is_running, send, zombies_of
from tests.support.waiting import wait_until


def with_everything(application: Application) -> None:
    """A process of every policy, each with children of a kind."""
    application.processes["jobs"] = application.worker(replicas=2)
    application.processes["cron"] = application.worker("singleton")
    application.processes["broker"] = application.worker("service")


def test_shutdown_answers_when_everything_is_gone(application: Application) -> None:
    with_everything(application)
    application.release("v1")
    application.start("v1")
    pids = [process["pid"] for process in application.all_process_statuses()]
    assert len(pids) == 5
    application.run("shutdown")
    # No waiting: the answer is the promise.
    assert not any(is_running(pid) for pid in pids)
    assert not application.proxy_workers()
    assert not application.control_path.exists()
    assert application.wait_daemon_exit().code == 0
    application.run("status", expect=3)
    assert (application.runtime_dir / "state.json").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_shuts_down_like_the_command(application: Application, signum: signal.Signals) -> None:
    with_everything(application)
    application.release("v1")
    pid = application.start("v1")
    send(pid, signum)
    assert application.wait_daemon_exit().code == 0
    application.assert_nothing_left()


def test_signals_that_mean_something_to_other_programs_only_are_ignored(application: Application) -> None:
    application.release("v1")
    pid = application.start("v1")
    for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE):
        send(pid, signum)
    # The answer comes after the signals, so they have been handled.
    assert application.daemon_pid() == pid
    assert application.serving()[0] == "v1"


def test_a_second_signal_during_the_shutdown_orphans_nothing(application: Application) -> None:
    with_everything(application)
    gate = application.gate("never")
    application.processes["jobs"]["env"] = {"TERM_GATE": str(gate)}
    application.processes["jobs"]["graceful_stop"] = "10m"
    application.release("v1", ignores_term=True)
    application.processes["web"]["graceful_stop"] = "10m"
    pid = application.start("v1")
    send(pid, signal.SIGTERM)
    gate.wait_reached()
    send(pid, signal.SIGTERM)
    application.wait_daemon_exit()
    application.assert_nothing_left()


def test_many_signals_in_a_row_orphan_nothing(application: Application) -> None:
    with_everything(application)
    application.release("v1")
    pid = application.start("v1")
    for _ in range(20):
        send(pid, signal.SIGTERM)
        send(pid, signal.SIGINT)
    application.wait_daemon_exit()
    application.assert_nothing_left()


def test_two_shutdown_commands_at_once_both_succeed(application: Application) -> None:
    with_everything(application)
    application.release("v1")
    application.start("v1")
    commands = [application.spawn("shutdown") for _ in range(2)]
    codes = sorted(command.finish().code for command in commands)
    # The slower one may find nobody left to ask.
    assert codes in ([0, 0], [0, 3])
    application.wait_daemon_exit()
    application.assert_nothing_left()


def test_clients_that_never_close_do_not_hold_up_a_shutdown(application: Application) -> None:
    application.config["proxy"]["drain_timeout"] = "500ms"
    application.config["proxy"]["force_stop_timeout"] = "500ms"
    application.release("v1")
    application.start("v1")
    with (
        HttpConnection(application.port) as idle,
        HttpConnection(application.port) as half_a_request,
        HttpConnection(application.port) as silent,
        HttpConnection(application.port) as waiting,
        application.websocket() as websocket,
    ):
        assert idle.request("GET", "/").status == 200
        half_a_request.send(b"GET / HTTP/1.1\r\nHost: x")
        assert silent.is_open
        gate = application.gate("never")
        waiting.send_request("GET", f"/gate?{gate}")
        gate.wait_reached()
        assert websocket.echo("hello").startswith("v1:")
        # All five still open; the bound is far below their own timeouts.
        application.shutdown(timeout=10.0)


def test_an_idle_client_costs_a_shutdown_nothing(application: Application) -> None:
    application.config["proxy"]["drain_timeout"] = "10m"
    application.config["proxy"]["force_stop_timeout"] = "10m"
    application.release("v1")
    application.start("v1")
    with HttpConnection(application.port) as idle:
        assert idle.request("GET", "/").status == 200
        application.shutdown(timeout=10.0)
        assert idle.read_some() == b""


def test_a_request_in_flight_is_answered_before_the_shutdown_goes_on(application: Application) -> None:
    gate = application.gate("request")
    application.release("v1")
    application.start("v1")
    with HttpConnection(application.port) as connection:
        connection.send_request("GET", f"/gate?{gate}")
        gate.wait_reached()
        shutdown = application.spawn("shutdown")
        wait_until(lambda: application.status()["daemon"]["is_shutting_down"], "the shutdown has begun")
        gate.open()
        assert connection.read_response().text == "passed"
        assert shutdown.finish().code == 0
    application.wait_daemon_exit()
    application.assert_nothing_left()


def test_a_request_that_has_just_come_is_answered_too(application: Application) -> None:
    application.release("v1")
    pid = application.start("v1")
    gate = application.gate("request")
    with HttpConnection(application.port) as connection:
        connection.send_request("GET", f"/gate?{gate}")
        gate.wait_reached()
        send(pid, signal.SIGTERM)  # at once: the worker has not told of it yet
        wait_until(lambda: application.status()["daemon"]["is_shutting_down"], "the shutdown has begun")
        gate.open()
        assert connection.read_response().text == "passed"
    application.wait_daemon_exit()
    application.assert_nothing_left()


def test_a_process_that_ignores_its_stop_signal_is_killed_after_its_grace(application: Application) -> None:
    application.processes["web"]["graceful_stop"] = "300ms"
    application.release("v1", ignores_term=True)
    application.start("v1")
    assert application.serving()[0] == "v1"
    application.shutdown(timeout=15.0)


def test_shutdown_and_start_follow_each_other_without_a_pause(application: Application) -> None:
    """The old daemon must never take away the new one's socket, port, lock or state."""
    application.release("v1")
    application.start("v1")
    for _ in range(20):
        application.run("shutdown")
        application.start_daemon()
    application.deploy("v1")
    assert application.serving()[0] == "v1"
    # The first daemons, too, are really gone.
    assert [line.pid for line in application.daemons()] == [application.daemon_pid()]


def test_a_new_daemon_starts_right_behind_a_signal_to_the_old_one(application: Application) -> None:
    application.release("v1")
    pid = application.start("v1")
    old = application.daemon
    assert old is not None
    send(pid, signal.SIGTERM)
    # Refused while the old one holds the lock; never two, and it works as soon as the old one has ended.
    early = application.spawn("daemon")
    old.finish()
    if not early.is_running:
        assert early.finish().code == 4
        application.start_daemon()
    else:
        wait_until(lambda: application.daemon_pid() == early.pid or not early.is_running, "the new daemon answers")
        application.daemon = early
    application.deploy("v1")
    assert application.serving()[0] == "v1"


def test_zombies_of_double_forked_grandchildren_are_reaped(application: Application) -> None:
    application.processes["jobs"] = application.worker()
    application.release("v1")
    daemon = application.start("v1")

    for _ in range(5):
        assert application.get("/forks?100").status == 200
    wait_until(lambda: not zombies_of(daemon), lambda: f"no zombie is left, but {len(zombies_of(daemon))} are")
    # Reaping strangers must not lose the exit of our own.
    os.kill(application.pid_of("jobs"), signal.SIGKILL)
    wait_until(lambda: len(application.journal("start", "jobs")) == 2, "the companion's exit was noticed")
    assert application.process("jobs")["last_start_reason"] == "crash"
