"""The file on disk and the daemon that runs from it part ways."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path

import pytest

from tests.support.application import Application, copy_of, python_command
from tests.support.processes import kill_and_wait, send
from tests.support.waiting import wait_until


@pytest.mark.parametrize("fate", ["deleted", "replaced"])
def test_everything_goes_on_when_the_file_is_gone(application: Application, pyz: Path, fate: str) -> None:
    mine = copy_of(pyz, application.root / "bin" / "rollbridge.pyz")
    application.processes["jobs"] = application.worker("service")
    application.release("v1")
    application.release("v2")
    application.run(*application.deploy_arguments("v1", "--ensure-daemon"), command=python_command(mine))
    if fate == "deleted":
        shutil.rmtree(mine.parent)
    else:
        mine.write_bytes(b"not a zip file")
    # Crash restart of the web process, of a service, of a proxy worker.
    _, web = application.serving()
    kill_and_wait(web)
    wait_until(lambda: application.serving()[1] != web, "the web process is back")
    jobs = application.pid_of("jobs")
    kill_and_wait(jobs)
    wait_until(lambda: application.pid_of("jobs") not in (jobs, None), "the service is back")
    (worker,) = application.proxy_workers()
    send(worker.pid, signal.SIGKILL)
    wait_until(lambda: application.serving()[0] == "v1", "the proxy is back")
    # The same code, from another place, finds the daemon and deploys.
    application.deploy("v2", "--ensure-daemon")
    assert application.run("status", "--json").json["active_release_id"] == "v2"
    application.shutdown()


@pytest.mark.parametrize("fate", ["overwritten", "replaced"])
def test_a_command_whose_file_is_replaced_while_it_runs_says_so(application: Application, pyz: Path, fate: str) -> None:
    mine = copy_of(pyz, application.root / "bin" / "rollbridge.pyz")
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(application.control_path))
        daemon.listen()
        command = application.spawn("status", command=python_command(mine))
        connection, _ = daemon.accept()
        with connection:
            if fate == "overwritten":
                mine.write_bytes(b"another file")
            else:
                copy_of(pyz, mine.with_name("new")).write_bytes(b"another file")
                mine.with_name("new").replace(mine)
        # It has lost its daemon, and what it needs to say so is not there any more.
        result = command.finish()
    assert result.stderr == f"rollbridge: {mine} was replaced while this command ran. Run it again.\n"
    assert result.code == 1


def test_the_directory_of_the_first_release_is_removed(application: Application) -> None:
    """The daemon was started from there, its file lay there; later releases must not care."""
    application.processes["jobs"] = application.worker("service")
    application.processes["jobs"]["cwd"] = "/"
    first = application.release("v1")
    application.release("v2")
    application.write_config()
    pid = application.start_daemon("--release-path", str(first), "--release-id", "v1")
    application.deploy("v2")
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped")
    shutil.rmtree(first)
    jobs = application.pid_of("jobs")
    kill_and_wait(jobs)
    wait_until(lambda: len(application.journal("start", "jobs")) == 2, "the service is back")
    assert application.journal("start", "jobs")[1]["release"] == "v2"
    application.release("v3")
    application.deploy("v3")
    assert application.serving()[0] == "v3"
    assert application.daemon_pid() == pid


@pytest.mark.parametrize("lost", ["run", "run/code"])
def test_a_runtime_directory_that_somebody_deletes_is_made_again(application: Application, lost: str) -> None:
    """What cleans /tmp by age does that, and so does an operator's slip: everything else must go on."""
    application.release("v1")
    application.release("v2")
    application.start("v1")
    shutil.rmtree(application.root / lost)
    (worker,) = application.proxy_workers()
    send(worker.pid, signal.SIGKILL)
    wait_until(lambda: application.serving()[0] == "v1", "a new worker serves")
    application.deploy("v2")
    assert application.serving()[0] == "v2"
    application.shutdown()


def test_a_shutdown_leaves_nothing_though_no_worker_can_be_started(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    shutil.rmtree(application.runtime_dir)
    # Nothing can be made where a file stands.
    application.runtime_dir.write_text("in the way")
    (worker,) = application.proxy_workers()
    send(worker.pid, signal.SIGKILL)
    wait_until(lambda: application.events("worker did not start"), "the daemon cannot replace the worker")
    application.shutdown()


def test_a_working_directory_that_vanishes_under_the_daemon_harms_nothing(application: Application) -> None:
    application.release("v1")
    application.release("v2")
    place = application.root / "place"
    place.mkdir()
    application.write_config()
    script = f'cd {place} && exec "$@"'
    application.run("ensure-daemon", command=("/bin/sh", "-c", script, "sh", *application.command))
    place.rmdir()
    application.deploy("v1")
    application.deploy("v2")
    assert application.serving()[0] == "v2"


def test_the_daemon_reads_its_modules_before_it_serves(application: Application) -> None:
    """A lazy import in a daemon would break with the file; every room is loaded when the socket answers."""
    application.run("ensure-daemon")
    pid = application.daemon_pid()
    path = application.status()["daemon"]["runtime"]["path"]
    running = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    private = [argument for argument in running if argument.endswith(".pyz")]
    assert private, running
    assert private[0].startswith(str(application.runtime_dir))
    assert path
    Path(private[0]).unlink()
    application.release("v1")
    application.release("v2", exit_code=3)
    application.deploy("v1")
    application.deploy("v2", expect=1)
    application.run("logs")
    application.run("events")
    application.run("stop")
    application.run("rollback", expect=None)
    application.shutdown()
