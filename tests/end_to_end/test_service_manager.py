"""What a service manager is told of the daemon's life (sd_notify(3)): a socket of the test's stands for systemd's."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.application import Application, python_command
from tests.support.builds import changed
from tests.support.manager import FakeManager
from tests.support.processes import kill_and_wait, send
from tests.support.waiting import wait_until

ADDRESSED = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "MAINPID")

# As systemd does it: the watchdog is for the pid of the very process that is started.
WATCHED = """
import os, sys
os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def manager(application: Application) -> Iterator[FakeManager]:
    with FakeManager(application.root / "notify") as manager:
        application.env |= manager.environ
        yield manager


def test_it_is_ready_when_the_release_serves_and_the_control_socket_is_there(
    application: Application, manager: FakeManager
) -> None:
    gate = application.gate("boot")
    application.release("v1", boot_gate=gate)
    daemon = application.spawn("daemon", "--release-path", str(application.root / "releases" / "v1"))
    application.daemon = daemon
    gate.wait_reached()
    manager.wait_status("starting: no release; deploy v1 in progress")
    assert not manager.has("READY")
    gate.open()
    manager.wait_for("READY", "1")
    # From this moment on, without any waiting.
    assert application.status()["active_release_id"] == "v1"
    assert application.serving()[0] == "v1"
    manager.wait_status("release v1 serves")
    assert {told.pid for told in manager.told} == {daemon.pid}


def test_a_start_that_takes_long_asks_for_more_time(application: Application, manager: FakeManager) -> None:
    gate = application.gate("boot")
    application.release("v1", boot_gate=gate)
    application.daemon = application.spawn("daemon", "--release-path", str(application.root / "releases" / "v1"))
    gate.wait_reached()
    manager.wait_for("EXTEND_TIMEOUT_USEC")
    first = len(manager.told)
    manager.wait_for("EXTEND_TIMEOUT_USEC", since=first)
    gate.open()
    manager.wait_for("READY")


def test_the_status_follows_a_deploy_its_drain_and_a_stop(application: Application, manager: FakeManager) -> None:
    gate = application.gate("boot")
    application.release("v1")
    application.release("v2", boot_gate=gate)
    application.start()
    manager.wait_status("no release")
    application.deploy("v1")
    manager.wait_status("release v1 serves")
    with application.websocket():
        deploying = application.spawn(*application.deploy_arguments("v2"))
        gate.wait_reached()
        manager.wait_status("release v1 serves; deploy v2 in progress")
        gate.open()
        assert deploying.finish().code == 0
        manager.wait_status("release v2 serves; v1 drains")
    manager.wait_status("release v2 serves")
    application.run("stop")
    manager.wait_status("no release: stopped")
    assert [told.values for told in manager.told if "READY" in told.values] == [{"READY": "1", "STATUS": "no release"}]


def test_the_end_is_announced_when_it_begins_and_asks_for_the_time_it_takes(
    application: Application, manager: FakeManager
) -> None:
    gate = application.gate("term")
    application.release("v1", term_gate=gate)
    pid = application.start("v1")
    send(pid, signal.SIGTERM)
    gate.wait_reached()
    manager.wait_for("STOPPING", "1")
    last = len(manager.told)
    assert "EXTEND_TIMEOUT_USEC" in manager.told[-1].values
    manager.wait_for("EXTEND_TIMEOUT_USEC", since=last)
    gate.open()
    assert application.wait_daemon_exit().code == 0
    assert manager.statuses()[-1] == "shutting down"


def test_a_shutdown_by_command_is_announced_as_well(application: Application, manager: FakeManager) -> None:
    application.release("v1")
    application.start("v1")
    application.shutdown()
    manager.wait_for("STOPPING", "1")


def test_the_watchdog_is_fed_by_the_loop_and_not_by_a_daemon_that_is_stopped(
    application: Application, manager: FakeManager
) -> None:
    application.env["WATCHDOG_USEC"] = "400000"
    plain = application.command
    application.command = (sys.executable, "-c", WATCHED, *plain)
    pid = application.start()
    application.command = plain
    for _ in range(3):
        manager.wait_for("WATCHDOG", "1", since=len(manager.receive()))
    send(pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")
    fed = len(manager.receive())
    send(pid, signal.SIGCONT)
    manager.wait_for("WATCHDOG", "1", since=fed)
    # The manager ends a wedged daemon with SIGABRT: what it runs goes on, and the next daemon takes it over.
    application.release("v1")
    application.deploy("v1")
    before = application.serving()
    send(pid, signal.SIGABRT)
    assert application.wait_daemon_exit().code == -signal.SIGABRT
    assert application.serving() == before
    application.start_daemon("--resume")
    assert application.serving() == before


def test_a_watchdog_for_somebody_else_is_not_fed(application: Application, manager: FakeManager) -> None:
    application.env |= {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    application.release("v1")
    application.start("v1")
    manager.wait_status("release v1 serves")
    assert not manager.has("WATCHDOG")


def test_neither_workers_nor_processes_see_what_is_addressed_to_the_daemon(
    application: Application, manager: FakeManager
) -> None:
    strangers = {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1", "LISTEN_FDS": "1", "LISTEN_PID": "1"}
    application.env |= {**strangers, "LISTEN_FDNAMES": "http", "MAINPID": "1"}
    application.processes["jobs"] = application.worker()
    application.release("v1")
    application.start("v1")
    seen = json.loads(application.get("/env").body)
    assert set(ADDRESSED) & set(seen) == set()
    pids = [application.pid_of("jobs"), *(line.pid for line in application.proxy_workers())]
    assert len(pids) > 1
    for pid in pids:
        variables = [line.partition("=")[0] for line in Path(f"/proc/{pid}/environ").read_text().split("\0")]
        assert set(ADDRESSED) & set(variables) == set(), pid


def test_a_daemon_that_ensure_daemon_starts_inside_of_a_unit_says_nothing_to_the_units_manager(
    application: Application, manager: FakeManager
) -> None:
    application.run("ensure-daemon")
    assert manager.receive() == []
    application.shutdown()


def test_the_next_daemon_is_ready_again_after_a_crash(application: Application, manager: FakeManager) -> None:
    application.release("v1")
    pid = application.start("v1")
    before = application.serving()
    kill_and_wait(pid)
    first = len(manager.receive())
    application.start_daemon("--resume")
    manager.wait_for("READY", "1", since=first)
    manager.wait_status("release v1 serves")
    assert application.serving() == before


def test_an_upgrade_is_a_reload_and_the_same_process_goes_on_telling(
    application: Application, manager: FakeManager, pyz: Path, tmp_path: Path
) -> None:
    newer = changed(pyz, tmp_path / "newer.pyz", {"rollbridge/newer.txt": ""})
    application.env["WATCHDOG_USEC"] = "400000"
    plain = application.command
    application.command = (sys.executable, "-c", WATCHED, *plain)
    application.release("v1")
    application.release("v2")
    pid = application.start()
    application.command = plain
    application.deploy("v1")
    manager.wait_status("release v1 serves")
    first = len(manager.receive())
    application.run("upgrade", command=python_command(newer))
    assert application.daemon_pid() == pid
    manager.wait_for("READY", "1", since=first)
    said = [name for told in manager.told[first:] for name in told.values if name in ("RELOADING", "READY", "STOPPING")]
    assert said == ["RELOADING", "READY"]
    assert any("MONOTONIC_USEC" in told.values for told in manager.told[first:])
    manager.wait_status("release v1 serves")
    after = len(manager.receive())
    manager.wait_for("WATCHDOG", "1", since=after)
    application.deploy("v2")
    manager.wait_status("release v2 serves")
    assert {told.pid for told in manager.receive()} == {pid}
    # The new workers, as the old ones, hear nothing of it.
    for line in application.proxy_workers():
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{line.pid}/environ").read_bytes()


def test_a_log_that_was_rotated_before_an_upgrade_is_found_again_after_it(
    application: Application, pyz: Path, tmp_path: Path
) -> None:
    newer = changed(pyz, tmp_path / "newer.pyz", {"rollbridge/newer.txt": ""})
    log = application.root / "daemon.log"
    application.write_config()
    application.run("ensure-daemon", "--daemon-log-path", str(log))
    log.rename(f"{log}.1")
    application.run("upgrade", command=python_command(newer))
    assert '"daemon ready"' in log.read_text()
    log.rename(f"{log}.2")
    application.run("reload")
    assert '"config reloaded"' in log.read_text()


def test_an_abstract_socket_is_told_too(application: Application) -> None:
    with FakeManager(f"@rollbridge-test-{application.mark}") as manager:
        application.env |= manager.environ
        application.start()
        manager.wait_for("READY", "1")


def test_a_manager_that_is_not_there_is_an_event_once_and_told_when_it_comes(application: Application) -> None:
    application.env["NOTIFY_SOCKET"] = str(application.root / "notify")
    application.release("v1")
    application.start("v1")
    assert application.serving()[0] == "v1"
    (event,) = application.events("service manager not told")
    assert event["data"] == {"socket": str(application.root / "notify"), "error": "No such file or directory"}
    with FakeManager(application.root / "notify") as manager:
        manager.wait_for("READY", "1")
        manager.wait_status("release v1 serves")


def test_a_socket_of_a_kind_that_is_not_known_is_an_event_and_nothing_more(application: Application) -> None:
    application.env["NOTIFY_SOCKET"] = "vsock:2:1234"
    application.start()
    (event,) = application.events("service manager not told")
    assert "neither a path nor an abstract name" in event["data"]["error"]


def test_a_start_that_fails_leaves_its_reason(application: Application, manager: FakeManager) -> None:
    application.write_config()
    good = application.config_path.read_text()
    application.config_path.write_text(good.replace("policy", "polici"))
    application.run("daemon", expect=2)
    assert "polici" in manager.statuses()[-1]
    application.config_path.write_text(good)
    application.release("v1", exit_code=3)
    application.run("daemon", "--release-path", str(application.root / "releases" / "v1"), expect=1)
    assert manager.statuses()[-1].startswith("failed: bootstrap: release v1 did not")
    application.config["state_path"] = "/proc/nowhere/state.json"
    application.write_config()
    application.run("daemon", expect=1)
    manager.wait_for("ERRNO", str(errno.ENOENT))
    assert manager.statuses()[-1].startswith("failed: preparing /proc/nowhere")
    assert not manager.has("READY")
