"""``recover``: lists, stops, heals, checks, against real daemons that were killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.application import Application
from tests.support.ports import listening_stranger
from tests.support.processes import is_running, kill_and_wait, marked
from tests.support.waiting import wait_until


def crash(application: Application) -> None:
    """kill -9 the daemon."""
    pid = application.daemon_pid()
    kill_and_wait(pid)


def reboot(application: Application) -> None:
    """Leave what a reboot leaves: nothing runs, and the state file is of another boot."""
    crash(application)
    for line in marked(application.mark):
        kill_and_wait(line.pid)
    application.forge_in_state(boot_id(), "00000000-0000-0000-0000-000000000000")


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def heal(application: Application, *more: str, expect: int = 0) -> str:
    """Heal as cron does; return what it said."""
    result = application.run("recover", "--heal", *more, expect=expect)
    return result.stdout + result.stderr


def test_a_killed_daemon_is_healed_and_everything_taken_over(application: Application) -> None:
    application.processes["worker"] = application.worker()
    application.release("r1")
    application.start("r1")
    web, worker = application.pid_of("web"), application.pid_of("worker")
    assert heal(application) == ""
    assert application.run("recover").stdout.startswith("the daemon runs")
    assert application.run("recover", "--check").stdout.startswith("ok: release r1 serves on 127.0.0.1:")
    crash(application)

    listed = application.run("recover")
    assert re.search(rf"^r1\.web\.0 +r1 +{web} +\d+s +\S", listed.stdout, re.MULTILINE)
    assert all(len(line) <= 80 for line in listed.stdout.splitlines())
    orphans = {one["id"]: one for one in application.run("recover", "--json").json["orphans"]}
    assert orphans["r1.web.0"]["pid"] == web and orphans["r1.worker.0"]["pid"] == worker
    assert orphans["r1.web.0"]["command"] and orphans["r1.web.0"]["age_seconds"] >= 0
    assert orphans["r1.web.0"]["release_id"] == "r1"
    assert "proxy worker 0" in orphans
    assert application.run("recover", "--check", expect=1).stdout.startswith("problem: no daemon runs")
    assert is_running(web) and is_running(worker)  # nothing was changed

    said = heal(application, "--quiet")
    assert "daemon started" in said and "release r1 serves (2 of 2 processes taken over" in said
    assert (application.pid_of("web"), application.pid_of("worker")) == (web, worker)
    assert heal(application) == ""
    application.shutdown()


def test_after_a_reboot_the_last_release_serves_again(application: Application) -> None:
    application.release("r1")
    application.start("r1")
    reboot(application)
    assert "release r1 serves (all started anew)" in heal(application)
    assert application.serving()[0] == "r1"
    application.shutdown()


def test_a_signal_is_healed_and_a_shutdown_is_not(application: Application) -> None:
    application.release("r1")
    application.start("r1")
    pid = application.daemon_pid()
    os.kill(pid, signal.SIGTERM)
    application.wait_daemon_exit()
    assert "release r1 serves" in heal(application)

    application.run("shutdown")
    assert heal(application, "--quiet") == ""
    assert "stays down until the next deploy" in heal(application)
    assert "was shut down by command" in application.run("recover", "--check", expect=1).stdout
    application.assert_nothing_left()
    application.run("ensure-daemon")
    assert heal(application) == ""  # wanted is a daemon for the next deploy, not the release that was shut down
    assert application.status()["active_release_id"] is None
    crash(application)
    assert "no release is to be brought back" in heal(application)
    application.deploy("r1")
    crash(application)
    assert "release r1 serves" in heal(application)
    application.shutdown()


def test_a_stopped_release_stays_stopped(application: Application) -> None:
    application.release("r1")
    application.start("r1")
    application.run("stop")
    assert heal(application) == ""
    crash(application)
    heal(application)
    assert application.status()["active_release_id"] is None
    application.shutdown()


def test_force_stops_whole_trees_and_healing_does_not_undo_it(application: Application) -> None:
    application.processes["worker"] = application.worker(command="sleep 1000 & sleep 1000")
    application.release("r1")
    application.start("r1")
    assert "manages what runs" in application.run("recover", "--force", expect=4).stderr
    crash(application)
    result = application.run("recover", "--force")
    assert "stopped r1.web.0" in result.stdout and "stopped proxy worker 0" in result.stdout
    assert marked(application.mark) == []
    state = json.loads((application.runtime_dir / "state.json").read_text())
    assert state["orphans"] == [] and state["intent"] == "down"
    assert "nothing is left" in application.run("recover", "--force").stdout
    assert heal(application, "--quiet") == ""
    assert marked(application.mark) == []


def test_a_forged_identity_is_listed_by_nobody_and_stopped_by_nobody(application: Application) -> None:
    application.release("r1")
    application.start("r1")
    crash(application)
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        web = next(
            one["pid"] for one in application.run("recover", "--json").json["orphans"] if one["id"] == "r1.web.0"
        )
        application.forge_in_state(f'"pid":{web},', f'"pid":{stranger.pid},')
        listed = application.run("recover", "--json").json["orphans"]
        assert stranger.pid not in [pid for one in listed for pid in one["pids"]]
        assert web in [pid for one in listed for pid in one["pids"]]  # known by its mark and its output all the same
        application.run("recover", "--force")
        assert stranger.poll() is None
        assert marked(application.mark) == []
    finally:
        stranger.kill()
        stranger.wait()


def test_a_suspended_daemon_is_told_apart_and_left_alone(application: Application) -> None:
    application.release("r1")
    pid = application.start("r1")
    os.kill(pid, signal.SIGSTOP)
    try:
        for arguments in (("--heal", "--quiet"), ("--check",), ()):
            result = application.run("recover", *arguments, expect=1)
            assert f"kill -CONT {pid}" in result.stdout + result.stderr
        assert application.get().status == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    assert heal(application) == ""
    application.shutdown()


def test_a_release_directory_that_is_gone_is_named_and_not_tried_again_at_once(application: Application) -> None:
    application.release("r1")
    application.release("r2")
    application.start("r1")
    application.deploy("r2")
    wait_until(lambda: application.state_of("r1") == "stopped", "r1 is stopped")
    reboot(application)
    shutil.move(application.root / "releases" / "r2", application.root / "away")
    said = heal(application, "--quiet", expect=1)
    assert "release r2 cannot be brought back" in said and "rollback --release-id r1" in said
    assert application.get().status == 503  # what can be started is
    pid = application.daemon_pid()
    assert heal(application, "--quiet", expect=1) == ""
    assert "tried again in" in heal(application, expect=1)
    assert application.daemon_pid() == pid
    shutil.move(application.root / "away", application.root / "releases" / "r2")
    assert "release r2 serves" in heal(application, "--quiet")  # at once: what was wrong has changed
    application.shutdown()


def test_a_broken_config_is_told_and_what_runs_is_left_alone(application: Application) -> None:
    application.release("r1")
    application.start("r1")
    crash(application)
    good = application.config_path.read_text()
    application.config_path.write_text(good.replace("[processes.web]", "[processes.web]\nport_ = 1"))
    assert "r1.web.0" in application.run("recover").stdout
    said = heal(application, expect=1)
    assert "port_" in said and "go on serving" in said
    assert application.get().status == 200
    assert "tried again in" in heal(application, expect=1)
    application.config_path.write_text(good)
    assert "taken over" in heal(application)
    application.shutdown()


def test_a_stranger_on_the_port_is_named(application: Application) -> None:
    application.release("r1")
    application.start("r1")
    reboot(application)
    with listening_stranger(application.port):
        said = heal(application, "--quiet", expect=1)
        assert f"in use by pid {os.getpid()}" in said and "another proxy.port. Nothing serves." in said
        assert heal(application, "--quiet", expect=1) == ""
    (application.runtime_dir / "heal.json").unlink()  # as if the time had passed
    assert "release r1 serves" in heal(application, "--quiet")
    application.shutdown()


def test_two_at_once_are_one(application: Application) -> None:
    application.release("r1")
    application.start("r1")
    crash(application)
    commands = [application.spawn("recover", "--heal") for _ in range(3)]
    results = [command.finish() for command in commands]
    assert [result.code for result in results] == [0, 0, 0]
    assert sum("daemon started" in result.stdout for result in results) == 1
    assert len(application.daemons()) == 1
    application.shutdown()


def test_a_damaged_state_file_hides_no_orphan(application: Application) -> None:
    application.release("r1")
    application.start("r1")
    web = application.pid_of("web")
    crash(application)
    path = application.runtime_dir / "state.json"
    damage = path.read_bytes()[:-100]
    path.write_bytes(damage)
    path.with_name("state.json.previous").unlink()
    result = application.run("recover", expect=1)
    assert f"r1.web.0 (not recorded)  r1       {web}" in result.stdout and "cannot be used" in result.stderr
    assert path.read_bytes() == damage
    application.run("recover", "--force")
    assert marked(application.mark) == []


def test_before_the_first_deploy_there_is_nothing_to_heal(application: Application) -> None:
    application.write_config()
    assert heal(application, "--quiet") == ""
    assert "nothing to bring back" in heal(application)
    assert marked(application.mark) == []


# A daemon that has the lock and the socket, and answers nobody.
SILENT = """
import socket, sys, time
from rollbridge.daemon.lock import DaemonLock
lock = DaemonLock(sys.argv[1])
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen()
print("ready", flush=True)
while True:
    time.sleep(0.001) if sys.argv[3] == "works" else time.sleep(1000)
"""


@pytest.mark.parametrize(("does", "code", "said"), [("sleeps", 1, "is stuck"), ("works", 0, "is busy")])
def test_a_daemon_that_answers_nobody_is_told_apart_and_what_runs_serves_on(
    application: Application, does: str, code: int, said: str
) -> None:
    application.release("r1")
    application.start("r1")
    serving = application.serving()
    crash(application)
    application.control_path.unlink(missing_ok=True)
    argv = [sys.executable, "-c", SILENT, str(application.runtime_dir), str(application.control_path), does]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as silent:
        assert silent.stdout is not None and silent.stdout.readline() == b"ready\n"
        assert said in heal(application, expect=code)
        assert said in application.run("recover", "--check", expect=1).stdout
        assert f"pid {silent.pid}" in application.run("recover", "--force", expect=4).stderr
        assert silent.poll() is None
        assert application.serving() == serving
        if does == "works":
            # It has been silent for longer than any work takes.
            record = json.loads((application.runtime_dir / "heal.json").read_text())
            record["silent_since"] -= 301
            (application.runtime_dir / "heal.json").write_text(json.dumps(record))
            assert "is stuck" in heal(application, expect=1)
        silent.kill()
    application.control_path.unlink()
    assert "taken over" in heal(application)
    assert application.serving() == serving
    application.shutdown()


def test_each_failure_in_a_row_waits_longer_and_a_success_forgets_them(application: Application) -> None:
    application.release("r1")
    application.start("r1")
    reboot(application)
    waits = []
    with listening_stranger(application.port):
        for _ in range(3):
            heal(application, "--quiet", expect=1)
            record = json.loads((application.runtime_dir / "heal.json").read_text())
            waits.append((record["failures"], round(record["retry_at"] - time.clock_gettime(time.CLOCK_BOOTTIME), -1)))
            daemon_log = (application.runtime_dir / "daemon.log").read_text()
            assert heal(application, "--quiet", expect=1) == ""  # a minute later, and it is not due yet
            assert (application.runtime_dir / "daemon.log").read_text() == daemon_log
            assert json.loads((application.runtime_dir / "heal.json").read_text()) == record
            record["retry_at"] = 0.0
            (application.runtime_dir / "heal.json").write_text(json.dumps(record))
    assert [number for number, _ in waits] == [1, 2, 3]
    assert waits[0][1] < waits[1][1] < waits[2][1]
    assert "release r1 serves" in heal(application, "--quiet")
    assert not (application.runtime_dir / "heal.json").exists()
    application.shutdown()
