"""The daemon as process 1 of a container: a pid namespace of the test's stands for that."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.application import Application, Command
from tests.support.http import HttpConnection
from tests.support.processes import children, descendants, is_running, send, zombies_of
from tests.support.waiting import wait_until

UNSHARE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")

# Leaves a daemon behind in a session of its own, whose parent has ended; says which pid it has, and ends when told.
DAEMONISES = """
import os, signal, sys, time
print("starting", flush=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(20):  # each an orphan, soon a zombie
            if os.fork() == 0:
                if os.fork() == 0:
                    os._exit(0)
                os._exit(0)
        for _ in range(20):
            os.wait()
        open(os.environ["STRAY"], "w").write(str(os.getpid()))
        while True:
            time.sleep(3600)
    os._exit(0)
os.wait()
signal.pause()
"""


@pytest.fixture
def contained(application: Application) -> Application:
    """An application whose daemon is started in a pid namespace."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("unshare and nsenter are not installed")
    probe = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, timeout=30, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no pid namespace may be made here: {probe.stderr.strip()}")
    return application


def start(application: Application, *arguments: str) -> tuple[Command, int]:
    """Start the daemon as process 1; return the command that made the namespace, and the daemon's pid outside of it."""
    command = application.spawn("daemon", *arguments, command=(*UNSHARE, *application.command))
    wait_until(lambda: application.daemon_pid() == 1, lambda: f"process 1 answers: {command.stderr}")
    ((daemon,),) = (children(command.pid),)
    return command, daemon.pid


def inside(daemon: int, *argv: str) -> None:
    subprocess.run(["nsenter", "--target", str(daemon), "--pid", "--mount", *argv], check=True, timeout=30)


def test_process_1_reaps_whatever_becomes_its_child(contained: Application) -> None:
    stray = contained.root / "stray"
    script = contained.root / "daemonises.py"
    script.write_text(DAEMONISES)
    worker = contained.worker(env={"STRAY": str(stray)})
    contained.processes["jobs"] = {**worker, "command": [contained.command[0], str(script)]}
    path = contained.release("v1")
    command, daemon = start(contained, "--release-path", str(path))
    assert contained.serving()[0] == "v1"
    wait_until(lambda: stray.exists() and stray.read_text(), "the stray is there")
    # What the daemon has nothing to do with: as `docker exec` starts it, and as it is left behind by that.
    for _ in range(30):
        inside(daemon, "sh", "-c", "(true & true & true) & exit 0")
    gate = contained.gate("stranger")
    inside(daemon, "sh", "-c", f"(while ! [ -e {gate} ]; do sleep 0.01; done) & exit 0")
    strangers = [line for line in children(daemon) if "stranger" in line.command]
    assert len(strangers) == 1
    wait_until(lambda: not zombies_of(daemon), lambda: f"no zombie is left: {zombies_of(daemon)}")
    # It is let live, and waited for when it ends.
    contained.run("restart")
    assert is_running(strangers[0].pid)
    gate.open()
    wait_until(lambda: strangers[0].pid not in {line.pid for line in descendants(daemon)}, "the stranger is reaped")
    assert not zombies_of(daemon)
    # What a managed process has made a daemon of belongs to it, wherever it went; one was stopped by the restart.
    strays = [line for line in descendants(daemon) if "daemonises" in line.command]
    assert len(strays) == 2
    send(daemon, signal.SIGTERM)
    assert command.finish().code == 0
    contained.assert_nothing_left()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_process_1_shuts_down_in_order(contained: Application, signum: signal.Signals) -> None:
    contained.processes["jobs"] = contained.worker()
    gate = contained.gate("slow")
    path = contained.release("v1")
    command, daemon = start(contained, "--release-path", str(path))
    with HttpConnection(contained.port) as slow:
        slow.send_request("GET", f"/gate?{gate}")
        gate.wait_reached()
        send(daemon, signum)
        wait_until(lambda: contained.status()["daemon"]["is_shutting_down"], "the shutdown has begun")
        gate.open()
        assert slow.read_response().status == 200
    assert command.finish().code == 0
    # Told to stop by its own signal, whatever the daemon was told by.
    assert [entry["signal"] for entry in contained.journal("signal", "jobs")] == ["SIGTERM"]
    contained.assert_nothing_left()


def test_process_1_reloads_on_hangup_and_is_not_moved_by_others(contained: Application) -> None:
    path = contained.release("v1")
    command, daemon = start(contained, "--release-path", str(path))
    for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE, signal.SIGHUP):
        send(daemon, signum)
    wait_until(lambda: contained.events("config reloaded"), "it has reloaded")
    assert contained.serving()[0] == "v1"
    contained.run("shutdown")
    assert command.finish().code == 0
    assert not Path(f"/proc/{daemon}").exists()
    contained.assert_nothing_left()
