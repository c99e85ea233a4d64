"""Processes and clients that hang: each costs its own time limit, and holds up nobody else."""

from __future__ import annotations

import signal
import socket

from tests.support.application import Application
from tests.support.http import HttpConnection
from tests.support.load import Load
from tests.support.processes import is_running, send
from tests.support.waiting import wait_until


def test_the_drain_deadline_holds_against_every_kind_of_stuck_connection(application: Application) -> None:
    application.config["proxy"]["drain_timeout"] = "1s"
    application.processes["web"]["graceful_stop"] = "500ms"
    application.release("v1", ignores_term=True)
    application.release("v2")
    application.release("v3")
    application.start("v1")
    gate = application.gate("never")
    with (
        Load(application.port) as load,
        application.websocket() as idle,
        HttpConnection(application.port) as stream,
        HttpConnection(application.port) as silent,
        HttpConnection(application.port) as stalled,
    ):
        load.wait_for_release("v1")
        assert idle.echo("one").startswith("v1:")
        stream.send_request("GET", f"/sse?{gate}")
        stream.read_until(b"data: first\n\n")
        silent.send_request("GET", f"/gate?{gate}")
        # A reader that reads no more: the response fills every buffer on its way.
        stalled.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.send_request("GET", "/bytes?50000000")
        wait_until(
            lambda: application.release_status("v1")["connections"]["http"] >= 3, "all three requests are in flight"
        )
        _, pid = application.serving()
        application.deploy("v2")
        application.deploy("v3")
        wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped, whoever hangs on to it")
        assert not is_running(pid)
        load.wait_for_release("v3")
        load.wait_for_more()
    load.assert_no_failure()


def test_a_stopped_process_is_ended_all_the_same(application: Application) -> None:
    """SIGSTOP leaves SIGTERM pending; only a SIGCONT or SIGKILL gets through."""
    application.processes["jobs"] = application.worker(graceful_stop="2s")
    application.release("v1")
    application.start("v1")
    send(application.pid_of("jobs"), signal.SIGSTOP)
    application.shutdown(timeout=20.0)


def test_an_indefinite_stop_waits_for_the_work_and_nobody_waits_for_it(application: Application) -> None:
    gate = application.gate("job")
    application.processes["jobs"] = application.worker(
        graceful_stop="indefinite", env={"TERM_GATE": str(gate)}, non_blocking_drain=True
    )
    for name in ("v1", "v2", "v3"):
        application.release(name)
    application.config["proxy"]["force_stop_timeout"] = "100ms"
    application.start("v1")
    pid = application.pid_of("jobs", "v1")
    application.deploy("v2")
    gate.wait_reached()
    application.deploy("v3")
    assert application.serving()[0] == "v3"
    assert is_running(pid)
    assert application.state_of("v1") == "draining"
    gate.open()
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 ends when its work is done")
    assert pid in [entry["pid"] for entry in application.journal("stop", "jobs")]


def test_other_commands_during_a_deploy_are_refused_and_leave_it_alone(application: Application) -> None:
    gate = application.gate("boot")
    application.processes["jobs"] = application.worker("service")
    application.release("v1")
    application.release("v2", boot_gate=gate)
    application.start("v1")
    deploy = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    for command in (["restart"], ["stop"], ["rollback"]):
        application.run(*command, expect=4)
    gate.open()
    assert deploy.finish().code == 0
    assert application.serving()[0] == "v2"


def test_a_killed_proxy_worker_takes_only_its_own_connections_with_it(application: Application) -> None:
    application.config["proxy"]["workers"] = 2
    application.release("v1")
    application.release("v2")
    application.start("v1")
    with Load(application.port, keep_alive=4, new_connection=2, post=0) as load:
        load.wait_for_more(200)
        victim = application.proxy_workers()[0]
        send(victim.pid, signal.SIGKILL)
        wait_until(
            lambda: {line.pid for line in application.proxy_workers()} - {victim.pid} and not is_running(victim.pid),
            "the worker is gone",
        )
        load.wait_for_more(200)
        application.deploy("v2")
        load.wait_for_release("v2")
    # A client loses at most the connection that it had with the dead one; those in its accept queue are answered.
    assert len(load.failures) <= load.clients, load.describe_failures()
    wait_until(lambda: len(application.proxy_workers()) == 2, "there are two workers again")


def test_a_release_without_a_health_check_is_switched_to_at_once(application: Application) -> None:
    application.processes["web"]["health"] = False
    application.release("v1", ping_status=500)
    application.start("v1")
    # It may still be booting: requests are held until it listens.
    assert application.serving()[0] == "v1"
