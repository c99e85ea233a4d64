"""ensure-daemon: one daemon, however often and by how many it is asked for."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.application import Application, copy_of, python_command
from tests.support.ports import listening_stranger
from tests.support.processes import is_running
from tests.support.waiting import wait_until


def test_it_starts_a_detached_daemon_and_then_finds_it(application: Application) -> None:
    application.run("ensure-daemon")
    pid = application.daemon_pid()
    application.run("ensure-daemon")
    assert application.daemon_pid() == pid
    assert [line.pid for line in application.daemons()] == [pid]
    # Detached: a session of its own, and nobody's terminal or pipe.
    session = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3]
    assert int(session) == pid or int(session) != _session_of_this_test()
    for descriptor in (0, 1, 2):
        assert "pipe" not in str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())
    application.shutdown()
    wait_until(lambda: not is_running(pid), "the daemon has ended")


def _session_of_this_test() -> int:
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[3])


def test_log_and_pid_file_are_written_where_asked(application: Application) -> None:
    log, pid_file = application.root / "my.log", application.root / "my.pid"
    application.run("ensure-daemon", "--daemon-log-path", str(log), "--daemon-pid-path", str(pid_file))
    assert int(pid_file.read_text()) == application.daemon_pid()
    assert log.exists()


@pytest.mark.parametrize("number", [2, 10])
def test_many_at_once_start_one_daemon(application: Application, number: int) -> None:
    application.write_config()
    commands = [application.spawn("ensure-daemon") for _ in range(number)]
    results = [command.finish() for command in commands]
    assert [result.code for result in results] == [0] * number, "\n".join(map(str, results))
    pid = application.daemon_pid()
    assert [line.pid for line in application.daemons()] == [pid]


def test_deploy_with_ensure_daemon_does_both_and_does_it_again(application: Application) -> None:
    application.release("v1")
    application.release("v2")
    application.deploy("v1", "--ensure-daemon")
    pid = application.daemon_pid()
    application.deploy("v2", "--ensure-daemon")
    assert application.daemon_pid() == pid
    assert application.serving()[0] == "v2"


def test_deploy_without_a_daemon_says_that_none_answers(application: Application) -> None:
    application.release("v1")
    result = application.deploy("v1", expect=3)
    assert "daemon" in result.stderr


def test_a_daemon_that_cannot_start_is_reported_with_its_reason(application: Application) -> None:

    with listening_stranger(application.port):
        result = application.run("ensure-daemon", expect=None)
    assert result.code in (1, 4)
    assert str(application.port) in result.stderr
    assert not application.daemons()


def other_code(pyz: Path, target: Path) -> Path:
    """A copy of the file that does the same and is not the same."""
    copy = copy_of(pyz, target)
    with zipfile.ZipFile(copy, "a") as archive:
        archive.writestr("another", "build")
    return copy


def test_a_daemon_that_runs_other_code_is_refused(application: Application, pyz: Path) -> None:
    other = other_code(pyz, application.root / "other" / "rollbridge.pyz")
    application.run("ensure-daemon")
    pid = application.daemon_pid()
    result = application.run("ensure-daemon", command=python_command(other), expect=4)
    assert "other code" in result.stderr
    application.release("v1")
    application.run(*application.deploy_arguments("v1", "--ensure-daemon"), command=python_command(other), expect=4)
    assert application.daemon_pid() == pid
    # A plain deploy is a request like any other: the daemon's own code carries it out.
    application.run(*application.deploy_arguments("v1"), command=python_command(other))
    assert application.serving()[0] == "v1"


def test_a_second_daemon_in_the_foreground_is_refused_with_who_holds_the_place(application: Application) -> None:
    application.release("v1")
    pid = application.start("v1")
    result = application.run("daemon", expect=4)
    assert str(pid) in result.stderr
    assert application.serving()[0] == "v1"
    assert application.daemon_pid() == pid


def test_two_applications_do_not_disturb_each_other(
    application: Application, make_application: Callable[[], Application]
) -> None:
    other = make_application()
    for one in (application, other):
        one.release("v1")
        one.deploy("v1", "--ensure-daemon")
    assert application.daemon_pid() != other.daemon_pid()
    other.shutdown()
    assert application.serving()[0] == "v1"


def test_another_application_on_the_same_control_socket_is_refused(
    application: Application, make_application: Callable[[], Application]
) -> None:
    other = make_application()
    pid = application.start()
    other.config["control"]["path"] = str(application.control_path)
    other.write_config()
    result = other.run("daemon", expect=4)
    assert str(pid) in result.stderr
    assert application.daemon_pid() == pid
