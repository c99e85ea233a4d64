"""kill -9 of the daemon: traffic goes on without it, and the next one carries on with what it finds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.support.application import Application
from tests.support.load import Load
from tests.support.processes import is_running, kill_and_wait, send
from tests.support.waiting import wait_until


def is_recorded(application: Application) -> bool:
    """Whether the state file says what is so now: it is written a moment after each change."""
    state = json.loads((application.runtime_dir / "state.json").read_text())
    recorded = {release["key"]: release["state"] for release in state["releases"]}
    actual = {release["release_id"]: release["state"] for release in application.status()["releases"]}
    text = json.dumps(state)
    return recorded == actual and all(str(process["pid"]) in text for process in application.all_process_statuses())


def kill_daemon(application: Application) -> None:
    assert application.daemon is not None
    wait_until(lambda: is_recorded(application), "the state file is up to date")
    send(application.daemon.pid, signal.SIGKILL)
    application.daemon.finish()
    application.daemon = None


def pids(application: Application) -> dict[str, int]:
    return {process["id"]: process["pid"] for process in application.all_process_statuses()}


@pytest.fixture
def with_everything(application: Application) -> Application:
    application.processes["jobs"] = application.worker(replicas=2)
    application.processes["cron"] = application.worker("singleton")
    application.processes["broker"] = application.worker("service")
    for name in ("v1", "v2", "v3"):
        application.release(name)
    return application


def test_nothing_is_restarted_and_no_request_fails(with_everything: Application) -> None:
    application = with_everything
    application.start("v1")
    before = pids(application)
    (worker,) = application.proxy_workers()
    with Load(application.port, websocket=1) as load, application.websocket() as websocket:
        assert websocket.echo("one").startswith("v1:")
        kill_daemon(application)
        load.wait_for_more()
        application.start_daemon()
        load.wait_for_more()
        assert websocket.echo("two").startswith("v1:")
        assert pids(application) == before
        assert [line.pid for line in application.proxy_workers()] == [worker.pid]
        assert application.status()["active_release_id"] == "v1"
        # It deploys, counts and drains as if nothing had been.
        application.deploy("v2")
        load.wait_for_release("v2")
        wait_until(
            lambda: application.release_status("v1")["connections"]["websocket"] == 1, "the one that is left is counted"
        )
        assert websocket.echo("three").startswith("v1:")
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped after its last WebSocket")
    load.assert_no_failure()
    application.shutdown()


def test_what_ended_meanwhile_is_started_again_and_what_ran_is_watched(with_everything: Application) -> None:
    application = with_everything
    application.start("v1")
    before = pids(application)
    kill_daemon(application)
    kill_and_wait(before["broker"])
    application.start_daemon()
    wait_until(lambda: len(application.journal("start", "broker")) == 2, "the service that ended is back")
    after = pids(application)
    assert {name for name in before if before[name] != after[name]} == {"broker"}
    # An adopted process that crashes is started again like any other.
    send(after["cron"], signal.SIGKILL)
    wait_until(lambda: len(application.journal("start", "cron")) == 2, "the singleton is back")


def test_a_deploy_that_was_cut_off_is_undone(with_everything: Application) -> None:
    application = with_everything
    gate = application.gate("boot")
    application.release("v2", boot_gate=gate)
    application.start("v1")
    deploy = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    wait_until(lambda: '"v2"' in (application.runtime_dir / "state.json").read_text(), "the state names v2")
    candidate = application.pid_of("web", "v2")
    kill_daemon(application)
    assert deploy.finish().code != 0
    application.start_daemon()
    wait_until(lambda: not is_running(candidate), "the half-started release is stopped")
    assert application.serving()[0] == "v1"
    application.release("v2")
    application.deploy("v2")
    assert application.serving()[0] == "v2"


def test_a_drain_that_was_cut_off_is_completed(with_everything: Application) -> None:
    application = with_everything
    application.start("v1")
    with application.websocket() as websocket:
        assert websocket.echo("one").startswith("v1:")
        application.deploy("v2")
        kill_daemon(application)
        application.start_daemon()
        assert application.state_of("v1") == "draining"
        assert websocket.echo("two").startswith("v1:")
    wait_until(lambda: application.state_of("v1") == "stopped", "the drain ends with the last WebSocket")


@pytest.mark.parametrize(("began", "goes_on"), [(3599.0, False), (0.0, True)])
def test_a_drain_goes_on_with_the_time_that_was_left(with_everything: Application, began: float, goes_on: bool) -> None:
    application = with_everything
    application.config["proxy"]["drain_timeout"] = "1h"
    application.start("v1")
    with application.websocket() as websocket:
        websocket.echo("one")
        application.deploy("v2")
        kill_daemon(application)

        def age(state: dict[str, Any]) -> None:
            (drains,) = [release for release in state["releases"] if release["state"] == "draining"]
            drains["drain_started_at"] -= began

        application.forge_state(age)
        application.start_daemon()
        if goes_on:
            assert websocket.echo("two").startswith("v1:")
            assert application.state_of("v1") == "draining"
        else:
            # A second was left. Had it begun anew, this would take an hour.
            wait_until(lambda: application.state_of("v1") == "stopped", "its time is up")
            (event,) = application.events("drain timed out")
            assert event["data"]["websocket"] == 1
    application.shutdown()


def test_the_exit_code_of_what_is_nobodys_child_is_said_to_be_unknown(with_everything: Application) -> None:
    application = with_everything
    application.processes["jobs"]["restart"] = {"max_restarts": 0}
    application.processes["jobs"]["replicas"] = 1
    application.start("v1")
    kill_daemon(application)
    application.start_daemon()
    assert application.process("jobs")["adopted"] is True
    assert application.process("jobs")["last_start_reason"] == "deploy"
    send(application.pid_of("jobs"), signal.SIGKILL)
    wait_until(lambda: application.process_statuses("jobs")[0]["state"] == "failed", "it is not started again")
    (shown,) = application.process_statuses("jobs")
    assert (shown["exit_code"], shown["exit_signal"]) == (None, None)
    assert "ended with an unknown exit code" in shown["failure"]
    assert "ended with an unknown exit code" in application.run("status").stdout
    application.shutdown()


def test_no_line_of_output_is_lost_or_told_twice_however_often_the_daemon_is_killed(application: Application) -> None:
    count = 600
    go = application.root / "go"
    script = application.root / "print.py"
    script.write_text(
        "import os, time\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.005)\n"
        f"for n in range({count}):\n"
        "    os.write(1, b'line %d' % n); time.sleep(0.001); os.write(1, b' of out\\n')\n"
        "    os.write(2, b'line %d of err\\n' % n); time.sleep(0.001)\n"
        "time.sleep(10000)\n"
    )
    application.processes["jobs"] = {"command": [sys.executable, "-S", str(script)], "output_lines": 2 * count}
    application.release("v1")
    application.start("v1")
    go.touch()
    for part in (1, 2, 3):
        wait_until(lambda part=part: len(application.logged("jobs", 2 * count)) > part * 200, "it prints")
        assert application.daemon is not None
        application.daemon.kill()  # in the middle of reading, often of a line
        application.start_daemon()
    wait_until(lambda: f"line {count - 1} of err" in application.logged("jobs", 2 * count), "the last line is read")
    lines = application.logged("jobs", 2 * count)
    for stream in ("out", "err"):
        told = [line for line in lines if line.endswith(f" of {stream}")]
        assert told == [f"line {number} of {stream}" for number in range(count)]
    assert len(lines) == 2 * count


def test_a_stranger_with_a_recorded_pid_is_never_signalled(with_everything: Application) -> None:
    application = with_everything
    application.start("v1")
    before = pids(application)
    kill_daemon(application)
    kill_and_wait(before["broker"])
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        application.forge_in_state(f'"pid":{before["broker"]},', f'"pid":{stranger.pid},')
        application.start_daemon()
        wait_until(lambda: len(application.journal("start", "broker")) == 2, "the service is started anew")
        application.run("restart", "--process", "broker")
        application.shutdown()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_ensure_daemon_brings_a_killed_daemon_back(with_everything: Application) -> None:
    application = with_everything
    application.deploy("v1", "--ensure-daemon")
    before = pids(application)
    kill_and_wait(application.daemon_pid())
    assert application.serving()[0] == "v1"
    application.run("ensure-daemon")
    assert pids(application) == before
    application.deploy("v2", "--ensure-daemon")
    assert application.serving()[0] == "v2"
