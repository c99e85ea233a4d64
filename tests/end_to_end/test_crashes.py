"""Processes that die: who is started again, when, and what clients notice."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
from typing import Any

import pytest

from tests.support.application import Application
from tests.support.http import ExchangeFailed, HttpConnection
from tests.support.load import Load
from tests.support.processes import is_running, kill_and_wait, read_process, send
from tests.support.waiting import wait_until


def starts_of(application: Application, process: str) -> list[dict[str, Any]]:
    return application.journal("start", process)


def test_a_crashed_companion_is_started_again_and_the_reason_shown(application: Application) -> None:
    application.processes["jobs"] = application.worker()
    application.release("v1")
    application.start("v1")
    first = application.process("jobs")
    assert (first["last_start_reason"], first["restarts"]) == ("deploy", 0)
    send(first["pid"], signal.SIGKILL)
    wait_until(lambda: len(starts_of(application, "jobs")) == 2, "it is started again")
    second = wait_until(
        lambda: (entry := application.process("jobs"))["state"] == "running" and entry, "status shows it running"
    )
    assert second["pid"] != first["pid"]
    assert (second["last_start_reason"], second["restarts"]) == ("crash", 1)


def test_restarts_back_off_and_end_at_their_cap(application: Application) -> None:
    application.processes["jobs"] = application.worker(
        "service", restart_delay="100ms", restart={"max_restarts": 3, "backoff_factor": 2, "max_delay": "10s"}
    )
    trigger = application.root / "crash"
    application.processes["jobs"]["command"] = [
        "/bin/sh",
        "-c",
        f'echo "$(date +%s.%N)" >> {application.root}/starts; [ -e {trigger} ] && exit 9; exec sleep 1000',
    ]
    application.release("v1")
    application.start("v1")
    pid = application.pid_of("jobs")
    trigger.touch()
    send(pid, signal.SIGKILL)
    wait_until(lambda: application.process_statuses("jobs")[0]["state"] == "failed", "it is given up")
    starts = [float(line) for line in (application.root / "starts").read_text().splitlines()]
    assert len(starts) == 4
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts[1:])]
    assert pauses[0] >= 0.2
    assert pauses[1] >= 0.4
    status = application.process_statuses("jobs")[0]
    assert status["exit_code"] == 9
    assert status["restarts"] == 3
    # An operator can still start it by hand.
    trigger.unlink()
    application.run("restart", "--process", "jobs")
    assert is_running(application.pid_of("jobs"))


def test_requests_are_held_while_the_web_process_is_started_again(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    _, pid = application.serving()
    boot = application.gate("boot")
    application.release("v1", boot_gate=boot)
    kill_and_wait(pid)
    boot.wait_reached()
    # Nothing listens now, and nothing will until we say so.
    answers: list[int] = []
    clients = [threading.Thread(target=lambda: answers.append(application.get().status)) for _ in range(4)]
    for client in clients:
        client.start()
    wait_until(
        lambda: sum(worker["held"] for worker in application.status()["proxy"]["workers"]) == 4,
        lambda: f"four requests are held: {application.status()['proxy']}",
    )
    assert not answers
    boot.open()
    for client in clients:
        client.join(20)
    assert answers == [200] * 4
    assert application.process("web")["last_start_reason"] == "crash"


def test_kill_9_of_the_web_process_fails_only_what_it_was_answering(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    with Load(application.port, keep_alive=2, new_connection=1, post=0) as load:
        load.wait_for_more()
        for _ in range(3):
            _, pid = application.serving()
            kill_and_wait(pid)
            wait_until(lambda old=pid: application.serving()[1] != old, "the web process is back")  # type: ignore[misc]
            load.wait_for_more()
    # At each kill a client had at most one request in flight.
    assert len(load.failures) <= 3 * load.clients, load.describe_failures()
    assert not [failure for failure in load.failures if failure.reason.startswith("503")], load.describe_failures()


def test_a_request_that_was_being_answered_fails_and_is_not_sent_twice(application: Application) -> None:
    gate = application.gate("request")
    application.release("v1")
    application.start("v1")
    with HttpConnection(application.port) as connection:
        connection.send_request("POST", f"/gate?{gate}", b"payment")
        gate.wait_reached()
        reached = os.stat(f"{gate}.waiting").st_mtime_ns  # noqa: PTH116
        _, pid = application.serving()
        kill_and_wait(pid)
        try:
            assert connection.read_response().status == 502
        except ExchangeFailed as error:
            assert "closed" in str(error)
        wait_until(lambda: application.serving()[1] != pid, "the web process is back")
        assert os.stat(f"{gate}.waiting").st_mtime_ns == reached, "the POST was sent again"  # noqa: PTH116


def test_when_the_shell_in_front_dies_its_children_are_stopped_before_the_restart(application: Application) -> None:
    python = f"{sys.executable} -S -E"
    # The second command keeps the shell from exec'ing the first.
    application.processes["web"]["command"] = f"{python} app.py {{{{port}}}}; exit $?"
    application.release("v1")
    application.start("v1")
    shell = application.pid_of("web")
    _, server = application.serving()
    assert shell != server
    kill_and_wait(shell)
    wait_until(lambda: application.serving()[1] != server, "a new server answers")
    assert not is_running(server)
    assert application.pid_of("web") != shell
    assert application.process("web")["last_start_reason"] == "crash"


def test_descendants_that_left_the_process_group_end_with_their_process(application: Application) -> None:
    daemonised = (
        "import os, sys, time\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "open(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
        "time.sleep(1000)\n"
    )
    script = application.root / "leave.py"
    script.write_text(daemonised)
    pids = application.root / "left"
    application.processes["jobs"] = {
        "command": f"{sys.executable} -S {script} {pids}; exec sleep 1000",
        "restart_delay": "50ms",
    }
    application.release("v1")
    application.start("v1")
    wait_until(pids.exists, "the daemonised descendant runs")
    (left,) = (int(line) for line in pids.read_text().split())
    line = read_process(left)
    assert line is not None
    application.run("restart", "--process", "jobs")
    wait_until(lambda: len(pids.read_text().split()) == 2, "a second one runs")
    assert not is_running(left)


def test_a_process_over_its_memory_limit_is_restarted_for_that_reason(application: Application) -> None:
    trigger = application.root / "greedy"
    application.processes["jobs"] = application.worker(
        env={"GREEDY_ONCE": str(trigger)},
        memory={"limit": "128MiB", "warn": "64MiB", "check_interval": "100ms"},
    )
    application.release("v1")
    application.start("v1")
    pid = application.pid_of("jobs")
    trigger.touch()
    wait_until(lambda: len(starts_of(application, "jobs")) == 2, "it is restarted")
    status = wait_until(
        lambda: (entry := application.process("jobs"))["state"] == "running" and entry, "status shows it running"
    )
    assert status["last_start_reason"] == "memory"
    assert status["memory_restarts"] == 1
    assert status["last_memory_restart_at"]
    assert status["pid"] != pid
    # Graceful: it was asked, not killed.
    assert [entry["pid"] for entry in application.journal("stop", "jobs")] == [pid]
    assert application.events("memory")


def test_memory_is_that_of_the_whole_tree(application: Application) -> None:
    child = "import time; ballast = b'x' * 200_000_000; time.sleep(1000)"
    marker = application.root / "once"
    application.processes["jobs"] = {
        "command": f'[ -e {marker} ] || {{ touch {marker}; {sys.executable} -S -c "{child}" & }}; sleep 1000; exit',
        "memory": {"limit": "128MiB", "check_interval": "100ms"},
    }
    application.release("v1")
    application.start("v1")
    wait_until(lambda: application.process("jobs")["last_start_reason"] == "memory", "the whole tree is restarted")
    assert application.process("jobs")["memory_restarts"] == 1


def test_a_warning_is_given_once_for_each_crossing(application: Application) -> None:
    trigger = application.root / "greedy"
    application.processes["jobs"] = application.worker(
        env={"GREEDY_ONCE": str(trigger)}, memory={"limit": "2GiB", "warn": "64MiB", "check_interval": "100ms"}
    )
    application.release("v1")
    application.start("v1")
    trigger.touch()
    wait_until(lambda: application.events("memory"), "the warning is an event")
    checks_later = len(application.events())
    application.run("status")
    assert len(application.events("memory")) == 1, f"after {checks_later} events"
    assert application.process("jobs")["memory_restarts"] == 0


def test_the_stop_sequence_runs_its_hooks_in_order(application: Application) -> None:
    def hook(name: str, then: str = "true") -> str:
        entry = json.dumps({"event": name, "process": "jobs"}).replace('"', '\\"')
        return f'echo "{entry}" >> $JOURNAL; echo $ROLLBRIDGE_PID $ROLLBRIDGE_RELEASE_ID > {name}; {then}'

    application.processes["jobs"] = application.worker(
        lifecycle={
            "quiet_command": hook("quiet", "kill -USR1 $ROLLBRIDGE_PID; exit 3"),
            "drain_command": hook("drain"),
            "stop_command": hook("stop_command", "kill -TERM $ROLLBRIDGE_PID"),
            "drain_timeout": "10s",
        },
        graceful_stop="10s",
    )
    path = application.release("v1")
    application.release("v2")
    application.start("v1")
    pid = application.pid_of("jobs", "v1")
    application.processes["jobs"]["lifecycle"] = {}
    application.write_config()
    application.deploy("v2")
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped")
    order = [
        entry.get("signal", entry["event"])
        for entry in application.journal(process="jobs")
        if entry["event"] != "start" and entry.get("release", "v1") == "v1"
    ]
    hooks = [name for name in order if name in ("quiet", "drain", "stop_command", "SIGTERM")]
    assert hooks == ["quiet", "drain", "stop_command", "SIGTERM"]
    for name in ("quiet", "drain", "stop_command"):
        assert (path / name).read_text().split() == [str(pid), "v1"]


def test_a_hook_that_hangs_is_ended_with_its_time(application: Application) -> None:
    application.processes["jobs"] = application.worker(lifecycle={"quiet_command": "sleep 1000"}, graceful_stop="500ms")
    application.release("v1")
    application.start("v1")
    application.shutdown(timeout=15.0)


def test_the_configured_stop_signal_is_sent(application: Application) -> None:
    application.processes["jobs"] = application.worker(stop_signal="SIGINT")
    application.release("v1")
    application.start("v1")
    application.shutdown()
    assert [entry["signal"] for entry in application.journal("signal", "jobs")] == ["SIGINT"]


@pytest.mark.parametrize("when", ["backoff", "stopping"])
def test_what_crashes_while_it_is_stopped_is_not_started_again(application: Application, when: str) -> None:
    gate = application.gate("term")
    application.processes["jobs"] = application.worker(
        "service", env={"TERM_GATE": str(gate)}, restart_delay="10m" if when == "backoff" else "0s"
    )
    application.release("v1")
    application.start("v1")
    pid = application.pid_of("jobs")
    if when == "backoff":
        kill_and_wait(pid)
        wait_until(lambda: application.process_statuses("jobs")[0]["pid"] != pid, "its crash was noticed")
        application.shutdown(timeout=10.0)
    else:
        shutdown = application.spawn("shutdown")
        gate.wait_reached()
        kill_and_wait(pid)
        assert shutdown.finish().code == 0
        application.wait_daemon_exit()
        application.assert_nothing_left()
    assert len(starts_of(application, "jobs")) == 1


def test_a_killed_proxy_worker_is_replaced_and_the_port_stays_open(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    (worker,) = application.proxy_workers()
    send(worker.pid, signal.SIGKILL)
    # No connection is refused in between: the listening socket never closes.
    assert application.get().status == 200
    (successor,) = application.proxy_workers()
    assert successor.pid != worker.pid
    application.release("v2")
    application.deploy("v2")
    assert application.serving()[0] == "v2"


def test_a_killed_replica_fails_what_it_was_answering_and_is_asked_again_when_it_is_healthy(
    application: Application,
) -> None:
    application.processes["web"] = application.stub(replicas=3)
    application.release("v1")
    application.start("v1")
    replicas = {entry["pid"] for entry in application.process_statuses("web", "v1")}
    assert len(replicas) == 3
    answer, healthy = application.gate("answer"), application.gate("healthy")
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(HttpConnection(application.port)) for _ in range(6)]
        for connection in waiting:
            connection.send_request("GET", f"/gate?{answer}")
        wait_until(lambda: application.release_status("v1")["connections"]["http"] == 6, "each replica has two of them")
        application.release("v1", ping_gate=healthy)  # the next one listens, but is not well
        victim = next(iter(replicas))
        kill_and_wait(victim)
        successor = wait_until(
            lambda: ({entry["pid"] for entry in application.process_statuses("web", "v1")} - replicas - {None}).pop(),
            "it is started again",
        )
        with Load(application.port, keep_alive=4, new_connection=2, post=1) as load:
            load.wait_for_more(200)
        load.assert_no_failure()
        answer.open()
        statuses = sorted(connection.read_response().status for connection in waiting)
    assert statuses == [200, 200, 200, 200, 502, 502]
    seen = {application.serving()[1] for _ in range(30)}
    assert seen == replicas - {victim}
    healthy.open()
    wait_until(lambda: application.serving()[1] == successor, "the new one is asked")
