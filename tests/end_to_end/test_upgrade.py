"""``upgrade``: the running daemon continues as other code, under load, with nothing lost and nothing restarted.

``ROLLBRIDGE_TEST_UPGRADES`` says how many upgrades the test back and forth makes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.application import Application, Gate, python_command
from tests.support.builds import build_version, changed, source_of
from tests.support.http import HttpConnection
from tests.support.load import Load
from tests.support.processes import children, count_fds, is_running, kill_and_wait, send
from tests.support.waiting import wait_until

NOBODY = 65534
MAIN = "rollbridge/daemon/main.py"
UPGRADES = int(os.environ.get("ROLLBRIDGE_TEST_UPGRADES", "5"))


@pytest.fixture(scope="session")
def newer(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sources as another version."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # shared by the workers
    with (base / "newer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        target = base / "newer" / "rollbridge-9.9.9.pyz"
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            build_version("9.9.9", target.parent)
    return target


@pytest.fixture
def with_everything(application: Application) -> Application:
    application.processes["jobs"] = application.worker(replicas=2)
    application.processes["cron"] = application.worker("singleton")
    application.processes["broker"] = application.worker("service")
    for name in ("v1", "v2"):
        application.release(name)
    return application


def upgrade(application: Application, pyz: Path, *arguments: str, expect: int = 0) -> dict[str, Any]:
    answer: dict[str, Any] = application.run(
        "upgrade", "--json", *arguments, command=python_command(pyz), expect=expect
    ).json
    return answer


def pids(application: Application) -> dict[str, int]:
    return {process["id"]: process["pid"] for process in application.all_process_statuses()}


def workers(application: Application, state: str) -> list[int]:
    listed = application.status()["proxy"]["workers"]
    return [worker["pid"] for worker in listed if worker["state"] == state]


def request(application: Application, command: dict[str, object]) -> dict[str, Any]:
    """Ask the daemon as a client of another version might; return its last word."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(application.control_path))
        connection.sendall(json.dumps(command).encode() + b"\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                answer: dict[str, Any] = json.loads(line)
                if "status" in answer:
                    return answer
    raise AssertionError("no answer")


def request_upgrade(application: Application, target: Path, **more: object) -> dict[str, Any]:
    digest = "sha256:" + hashlib.sha256(target.read_bytes()).hexdigest()
    return request(
        application,
        {
            "command": "upgrade",
            "python": sys.executable,
            "target": str(target),
            "is_zipapp": True,
            "digest": digest,
            **more,
        },
    )


def with_statement(pyz: Path, target: Path, before: str, statement: str) -> Path:
    """A copy of ``pyz`` whose daemon executes ``statement`` just before the line ``before`` of its main module."""
    source = source_of(pyz, MAIN)
    (line,) = [line for line in source.splitlines(keepends=True) if line.strip() == before]
    indent = line[: len(line) - len(line.lstrip())]
    return changed(pyz, target, {MAIN: source.replace(line, f"{indent}{statement}\n{line}")})


def waiting_at(pyz: Path, target: Path, gate: Gate, before: str) -> Path:
    """A copy of ``pyz`` whose daemon waits at ``gate`` when it gets to the line ``before``."""
    reached = f"import os, time\nopen({f'{gate}.waiting'!r}, 'w').close()\n"
    code = f"{reached}while not os.path.exists({str(gate)!r}): time.sleep(0.005)"
    return with_statement(pyz, target, before, f"exec({code!r})")


def lock_is_held(application: Application) -> bool:
    with (application.runtime_dir / "daemon.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


IN_THE_WINDOW = "environ = dict(os.environ)"  # nothing is taken over yet, no handler installed
AT_THE_START = "held, supervisor, pool = self.held, self.supervisor, self.pool"


def test_no_request_fails_and_nothing_is_restarted(with_everything: Application, newer: Path) -> None:
    application = with_everything
    daemon = application.start("v1")
    before = pids(application)
    (old_worker,) = workers(application, "serving")
    gate = application.gate("download")
    with Load(application.port, websocket=1) as load, application.websocket() as websocket:
        download = HttpConnection(application.port)
        download.send_request("GET", f"/sse?{gate}")
        download.read_until(b"\r\n\r\n")
        assert websocket.echo("one").startswith("v1:")
        load.wait_for_more()
        answer = upgrade(application, newer)
        assert (answer["version"], answer["previous_version"], answer["pid"]) == ("9.9.9", "0.1.0", daemon)
        load.wait_for_more()
        assert websocket.echo("two").startswith("v1:")
        assert pids(application) == before
        assert application.status()["version"] == "9.9.9"
        assert application.daemon_pid() == daemon
        assert workers(application, "retiring") == [old_worker]
        gate.open()
        assert b"data" in download.read_until(b"\r\n0\r\n\r\n")
        download.close()
        application.deploy("v2")
        load.wait_for_release("v2")
        assert websocket.echo("three").startswith("v1:")
        assert application.release_status("v1")["connections"]["websocket"] == 1
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped after its last WebSocket")
    wait_until(lambda: not is_running(old_worker), "the old worker has ended")
    load.assert_no_failure()
    assert application.events("worker retired")
    application.shutdown()


def test_back_and_forth_under_load(with_everything: Application, pyz: Path, newer: Path) -> None:
    application = with_everything
    script = application.root / "print.py"
    script.write_text(
        "import itertools, os, time\n"
        "for n in itertools.count():\n    os.write(1, b'line %d\\n' % n); time.sleep(0.003)\n"
    )
    application.processes["printer"] = {"command": [sys.executable, "-S", str(script)], "output_lines": 1000}
    daemon = application.start("v1")
    before = pids(application)
    followed = application.spawn("logs", "--process", "printer", "--follow", "--lines", "0", "--json")
    events = application.spawn("events", "--follow", "--limit", "1000", "--json")
    descriptors = 0
    with Load(application.port, websocket=1) as load, application.websocket() as websocket:
        for number in range(UPGRADES):
            target = (newer, pyz)[number % 2]
            assert upgrade(application, target)["pid"] == daemon
            assert lock_is_held(application)
            load.wait_for_more(20)
            assert websocket.echo("still").startswith("v1:")
            if number == 1:
                wait_until(lambda: len(workers(application, "retiring")) == 1, "only the WebSocket's worker is left")
                descriptors = count_fds(daemon)
        wait_until(lambda: len(workers(application, "retiring")) == 1, "only the WebSocket's worker is left")
        assert pids(application) == before
        assert application.daemon_pid() == daemon
        assert count_fds(daemon) <= descriptors + 2 or UPGRADES < 3
        state = json.loads((application.runtime_dir / "state.json").read_text())
        assert len(state["workers"]) == 2
    load.assert_no_failure()
    wait_until(lambda: len(application.proxy_workers()) == 1, "all old workers have ended")
    copies = sorted(path.name for path in (application.runtime_dir / "code").iterdir())
    assert len(copies) <= 2, copies
    # Whoever follows saw every line, none twice, and every event.
    shown = len(followed.stdout.splitlines())
    wait_until(lambda: len(followed.stdout.splitlines()) > shown + 10, "the follower goes on")
    application.run("shutdown")
    assert application.daemon is not None and application.daemon.finish().code == 0
    assert followed.finish().code == 0 and events.finish().code == 0
    numbers = [int(json.loads(line)["line"].removeprefix("line ")) for line in followed.stdout.splitlines()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    messages = [json.loads(line)["message"] for line in events.stdout.splitlines()]
    assert messages.count("upgrading") == messages.count("upgraded") == UPGRADES
    print(f"\n{UPGRADES} upgrades, {load.total} requests, {len(numbers)} lines, longest {load.longest_seconds:.3f} s")


def test_the_same_code_is_left_alone(application: Application, pyz: Path) -> None:
    application.start()
    before = [line.pid for line in application.proxy_workers()]
    assert upgrade(application, pyz)["changed"] is False
    assert "runs this code already" in application.run("upgrade").stdout
    assert [line.pid for line in application.proxy_workers()] == before


def test_without_a_daemon_there_is_nothing_to_upgrade(application: Application, newer: Path) -> None:
    assert upgrade(application, newer, expect=3)["exit_code"] == 3


def test_children_are_still_known_as_children(with_everything: Application, newer: Path) -> None:
    application = with_everything
    gate = application.gate("window")
    daemon = application.start("v1")
    slow = waiting_at(newer, application.root / "slow.pyz", gate, IN_THE_WINDOW)
    cron, broker = application.pid_of("cron"), application.pid_of("broker")
    command = application.spawn("upgrade", command=python_command(slow))
    gate.wait_reached()
    # One ends while nobody looks: its exit code is known all the same.
    send(cron, signal.SIGKILL)
    wait_until(lambda: not is_running(cron), "it is a zombie")
    status = application.spawn("status", "--json")
    gate.open()
    assert command.finish().code == 0
    assert status.finish().json["daemon"]["pid"] == daemon
    wait_until(lambda: len(application.journal("start", "cron")) == 2, "it is started again")
    (exited,) = application.events("process exited")
    assert exited["data"]["exit_signal"] == "SIGKILL"
    # One ends afterwards.
    send(broker, signal.SIGTERM)
    wait_until(lambda: len(application.events("process exited")) == 2, "its end is seen")
    assert application.events("process exited")[-1]["data"]["exit_code"] == 0
    assert not [line for line in children(daemon) if line.state == "Z"]
    application.shutdown()


def test_a_release_that_the_daemon_was_started_with_is_not_brought_up_again(
    with_everything: Application, newer: Path
) -> None:
    application = with_everything
    application.write_config()
    path = str(application.root / "releases" / "v1")
    application.start_daemon("--release-path", path, "--release-id", "v1", "--boot-attestation", "sha256:" + "0" * 64)
    application.deploy("v2")
    upgrade(application, newer)
    assert application.serving()[0] == "v2"
    bootstrap = application.status()["daemon"]["bootstrap"]
    assert (bootstrap["release_id"], bootstrap["boot_attestation"]) == ("v1", "sha256:" + "0" * 64)
    application.shutdown()


def test_a_drain_goes_on(with_everything: Application, newer: Path) -> None:
    application = with_everything
    application.start("v1")
    with application.websocket() as websocket:
        assert websocket.echo("one").startswith("v1:")
        application.deploy("v2")
        upgrade(application, newer)
        assert application.state_of("v1") == "draining"
        assert websocket.echo("two").startswith("v1:")
    wait_until(lambda: application.state_of("v1") == "stopped", "the drain ends with the last WebSocket")
    application.shutdown()


# What must not take over


def broken_import(pyz: Path, target: Path) -> Path:
    return changed(pyz, target, {"rollbridge/daemon/listener.py": "import no_such_module\n"})


def broken_syntax(pyz: Path, target: Path) -> Path:
    return changed(pyz, target, {"rollbridge/release/retire.py": "def retire(:\n"})


def newer_state(pyz: Path, target: Path) -> Path:
    """Reads no state of this format: it is of a later one."""
    name = "rollbridge/daemon/state_format.py"
    source = source_of(pyz, name)
    assert "FORMAT: Final = 1\n" in source
    return changed(pyz, target, {name: source.replace("FORMAT: Final = 1\n", "FORMAT: Final = 0\n")})


def other_worker_protocol(pyz: Path, target: Path) -> Path:
    name = "rollbridge/proxy/messages.py"
    return changed(pyz, target, {name: source_of(pyz, name).replace("PROTOCOL: Final = 1\n", "PROTOCOL: Final = 7\n")})


@pytest.mark.parametrize(
    ("make", "code", "reason"),
    [
        (broken_import, 1, "no_such_module"),
        (broken_syntax, 1, "SyntaxError"),
        (newer_state, 4, "format"),
        (other_worker_protocol, 4, "workers"),
    ],
)
def test_a_file_that_fails_its_check_changes_nothing(
    application: Application, newer: Path, make: Callable[[Path, Path], Path], code: int, reason: str
) -> None:
    application.release("v1")
    application.start("v1")
    before = (pids(application), [line.pid for line in application.proxy_workers()])
    answer = upgrade(application, make(newer, application.root / "broken.pyz"), expect=code)
    assert reason in answer["error"] and "goes on as rollbridge 0.1.0" in answer["error"]
    assert (pids(application), [line.pid for line in application.proxy_workers()]) == before
    assert application.status()["version"] == "0.1.0"
    application.shutdown()


@pytest.mark.parametrize("content", ["not a zip file at all\n", "", "import sys; sys.exit('no thanks')\n"])
def test_what_is_no_rollbridge_changes_nothing(application: Application, content: str) -> None:
    application.start()
    target = application.root / "other.pyz"
    target.write_text(content)
    answer = request_upgrade(application, target)
    assert answer["exit_code"] == 1 and "goes on as rollbridge 0.1.0" in answer["error"]
    assert ("no thanks" in answer["error"]) == ("no thanks" in content)
    assert application.status()["version"] == "0.1.0"


def test_a_file_that_is_replaced_in_this_moment_is_not_run(application: Application, newer: Path) -> None:
    application.start()
    target = application.root / "new.pyz"
    shutil.copyfile(newer, target)
    answer = request_upgrade(application, target, digest="sha256:" + "0" * 64)
    assert answer["exit_code"] == 1 and "was changed" in answer["error"]


def test_a_config_that_does_not_define_what_runs_is_refused(with_everything: Application, newer: Path) -> None:
    application = with_everything
    application.start("v1")
    before = pids(application)
    jobs = application.processes.pop("jobs")
    application.write_config()
    answer = upgrade(application, newer, expect=4)
    assert "v1.jobs.0, v1.jobs.1 run" in answer["error"]
    assert pids(application) == before
    application.processes["jobs"] = jobs
    application.config["no_such_key"] = 1
    application.write_config()
    assert "no_such_key" in upgrade(application, newer, expect=1)["error"]
    del application.config["no_such_key"]
    application.write_config()
    upgrade(application, newer)
    assert pids(application) == before
    application.shutdown()


@pytest.mark.parametrize("key", ["proxy.port", "proxy.host", "state_path", "runtime_dir"])
@pytest.mark.parametrize("how", ["upgrade", "takeover"])
def test_settings_that_cannot_be_handed_over_are_refused(
    application: Application, newer: Path, key: str, how: str
) -> None:
    application.release("v1")
    daemon = application.start("v1")
    before = application.config_path.read_text()
    section, _, name = key.rpartition(".")
    place = application.config[section] if section else application.config
    others = {"port": application.port - 60, "host": "0.0.0.0"}
    place[name] = others.get(name, str(application.root / "elsewhere"))
    application.write_config()
    command = ["daemon", "--takeover"] if how == "takeover" else ["upgrade"]
    told = application.run(*command, command=python_command(newer), expect=4).stderr
    assert "no next daemon can follow" in told and key in told
    application.config_path.write_text(before)
    assert (application.daemon_pid(), application.status()["version"]) == (daemon, "0.1.0")
    assert application.serving()[0] == "v1"


def test_new_code_finds_what_runs_when_the_state_file_goes_at_that_moment(
    with_everything: Application, newer: Path
) -> None:
    application = with_everything
    application.start("v1")
    before = pids(application)
    path = str(application.status()["state_path"])
    changing = with_statement(newer, application.root / "new.pyz", IN_THE_WINDOW, f"os.unlink({path!r})")
    upgrade(application, changing)
    assert pids(application) == before
    assert application.status()["active_release_id"] == "v1"
    application.shutdown()


@pytest.mark.parametrize(
    ("before", "statement", "reason"),
    [
        (IN_THE_WINDOW, "raise RuntimeError('this version\\nis no good')", "version is no good"),
        (IN_THE_WINDOW, "raise SystemExit(3)", "SystemExit"),
        (AT_THE_START, "raise RuntimeError('this version is no good')", "no good"),
        ("await pool.start()", "self.pool.starter = exec('raise DaemonFailed(\"no worker\")')", "no worker"),
        ("self.manager.ready()", "raise OSError(28, 'No space left')", "No space left"),
    ],
)
def test_a_file_that_does_not_come_up_hands_back(
    with_everything: Application, newer: Path, before: str, statement: str, reason: str
) -> None:
    application = with_everything
    daemon = application.start("v1")
    found = pids(application)
    broken = with_statement(newer, application.root / "broken.pyz", before, statement)
    with Load(application.port, websocket=1) as load:
        load.wait_for_more()
        answer = upgrade(application, broken, expect=1)
        assert reason in answer["error"] and "goes on as rollbridge 0.1.0" in answer["error"]
        load.wait_for_more()
    load.assert_no_failure()
    assert (application.daemon_pid(), pids(application)) == (daemon, found)
    assert application.status()["version"] == "0.1.0"
    assert lock_is_held(application)
    (failed,) = application.events("upgrade failed")
    assert reason in failed["data"]["error"]
    application.deploy("v2")
    upgrade(application, newer)
    assert application.serving()[0] == "v2"
    application.shutdown()


def test_new_code_whose_workers_do_not_start_hands_back(application: Application, newer: Path) -> None:
    application.release("v1")
    application.start("v1")
    name = "rollbridge/proxy/worker.py"
    source = source_of(newer, name)
    broken = changed(
        newer,
        application.root / "broken.pyz",
        {
            name: source.replace(
                "    parser = argparse", "    raise SystemExit('no worker today')\n    parser = argparse"
            ),
            "rollbridge/daemon/workers.py": source_of(newer, "rollbridge/daemon/workers.py").replace(
                "_START_SECONDS: Final = 20.0", "_START_SECONDS: Final = 1.0"
            ),
        },
    )
    with Load(application.port) as load:
        answer = upgrade(application, broken, expect=1)
        assert "workers did not start" in answer["error"]
        load.wait_for_more()
    load.assert_no_failure()
    application.shutdown()


def test_an_emptied_runtime_directory_does_not_keep_from_an_upgrade_nor_let_in_a_second_daemon(
    application: Application, newer: Path, tmp_path: Path
) -> None:
    application.config["state_path"] = str(application.root / "state.json")
    application.release("v1")
    daemon = application.start("v1")
    (worker,) = application.proxy_workers()
    (application.runtime_dir / "daemon.lock").unlink()
    assert "is in use" in application.run("daemon", expect=4).stderr
    assert [line.pid for line in application.proxy_workers()] == [worker.pid]
    (application.runtime_dir / "daemon.lock").unlink()
    assert "in use" in application.run("recover", "--force", expect=4).stderr
    assert application.serving()[0] == "v1"
    application.runtime_dir.rename(tmp_path / "gone")
    assert "is in use" in application.run("daemon", expect=4).stderr
    assert [line.pid for line in application.proxy_workers()] == [worker.pid]
    shutil.rmtree(application.runtime_dir)
    upgrade(application, newer)
    assert (application.daemon_pid(), application.status()["version"]) == (daemon, "9.9.9")
    assert application.serving()[0] == "v1"


# Who may, and when


@pytest.mark.skipif(os.getuid() != 0, reason="only root can speak as somebody else")
def test_another_user_may_not_choose_the_code(application: Application, newer: Path) -> None:
    application.root.chmod(0o755)
    application.config["control"].update(mode="660", group=str(NOBODY))
    application.start()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        text = b"failed"
        try:
            os.setgroups([NOBODY])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            # The file itself is in a directory of root's: read before.
            answers = [
                request(application, {"command": "ping"}),
                request(
                    application,
                    {"command": "upgrade", "python": sys.executable, "target": "/x", "is_zipapp": True, "digest": "x"},
                ),
                request(application, {"command": "give-way"}),
            ]
            text = json.dumps(answers).encode()
        finally:
            os.write(writing, text)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        ping, *refused = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert ping["status"] == "success"
    assert [answer["exit_code"] for answer in refused] == [4, 4]
    assert all("only root and that user" in answer["error"] for answer in refused)


def test_a_daemon_that_deploys_is_busy_and_can_be_waited_for(with_everything: Application, newer: Path) -> None:
    application = with_everything
    gate = application.gate("boot")
    application.release("v2", boot_gate=gate)
    application.start("v1")
    deploy = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    assert "busy with deploy" in upgrade(application, newer, expect=4)["error"]
    waiting = application.spawn("upgrade", "--wait", command=python_command(newer))
    wait_until(lambda: len(application.events("upgrade requested")) == 2, "it waits")
    gate.open()
    assert deploy.finish().code == 0
    assert waiting.finish().code == 0
    assert application.status()["version"] == "9.9.9"
    assert application.serving()[0] == "v2"
    application.shutdown()


def test_a_deploy_that_waits_for_the_upgrade_is_carried_out_by_the_new_code(
    with_everything: Application, newer: Path
) -> None:
    application = with_everything
    gate = application.gate("check")
    application.start("v1")
    name = "rollbridge/daemon/upgrade_check.py"
    source = source_of(newer, name)
    wait = (
        f"    open({f'{gate}.waiting'!r}, 'w')\n    import time\n"
        f"    while not os.path.exists({str(gate)!r}): time.sleep(0.005)\n"
    )
    line = "    environ = dict(os.environ)\n"
    assert line in source
    slow = changed(newer, application.root / "slow.pyz", {name: source.replace(line, wait + line)})
    command = application.spawn("upgrade", command=python_command(slow))
    gate.wait_reached()
    assert "busy with upgrade" in application.deploy("v2", expect=4).stderr
    deploy = application.spawn(*application.deploy_arguments("v2", "--wait"))
    wait_until(lambda: len(application.events("deploy requested")) == 3, "it waits")
    gate.open()
    assert command.finish().code == 0
    assert deploy.finish().code == 0
    assert application.serving()[0] == "v2"
    application.shutdown()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_in_the_window_is_neither_lost_nor_deadly(
    with_everything: Application, newer: Path, signum: signal.Signals
) -> None:
    application = with_everything
    gate = application.gate("window")
    daemon = application.start("v1")
    slow = waiting_at(newer, application.root / "slow.pyz", gate, IN_THE_WINDOW)
    command = application.spawn("upgrade", command=python_command(slow))
    gate.wait_reached()
    send(daemon, signum)
    gate.open()
    if signum is signal.SIGTERM:
        assert application.wait_daemon_exit().code == 0
        application.assert_nothing_left()
        command.finish()
        return
    assert command.finish().code == 0
    assert application.daemon_pid() == daemon
    # What is started from now on has no signal blocked.
    application.deploy("v2")
    blocked = Path(f"/proc/{application.pid_of('web', 'v2')}/status").read_text().partition("SigBlk:\t")[2].split()[0]
    assert int(blocked, 16) == 0
    application.shutdown()


def test_the_lock_and_the_port_are_never_free_and_clients_wait(with_everything: Application, newer: Path) -> None:
    application = with_everything
    gate = application.gate("window")
    application.start("v1")
    slow = waiting_at(newer, application.root / "slow.pyz", gate, IN_THE_WINDOW)
    inode = application.control_path.stat().st_ino
    command = application.spawn("upgrade", command=python_command(slow))
    gate.wait_reached()
    assert lock_is_held(application)
    assert application.get().status == 200
    assert "already runs" in application.run("daemon", expect=4).stderr
    waiting = [application.spawn("status", "--json"), application.spawn(*application.deploy_arguments("v2"))]
    assert all(one.is_running for one in waiting)
    gate.open()
    assert [one.finish().code for one in (command, *waiting)] == [0, 0, 0]
    assert application.control_path.stat().st_ino == inode
    assert application.serving()[0] == "v2"
    application.shutdown()


def test_a_daemon_killed_in_the_window_is_recovered_by_either_version(
    with_everything: Application, pyz: Path, newer: Path
) -> None:
    application = with_everything
    gate = application.gate("window")
    daemon = application.start("v1")
    before = pids(application)
    slow = waiting_at(newer, application.root / "slow.pyz", gate, IN_THE_WINDOW)
    command = application.spawn("upgrade", command=python_command(slow))
    with Load(application.port, websocket=1) as load:
        gate.wait_reached()
        kill_and_wait(daemon)
        assert application.daemon is not None
        application.daemon.finish()
        assert "went away" in command.finish().stderr
        load.wait_for_more()
        application.start_daemon()
        load.wait_for_more()
    load.assert_no_failure()
    assert pids(application) == before
    application.shutdown()


def test_old_workers_are_found_again_after_a_crash_and_go_on_retiring(
    with_everything: Application, newer: Path
) -> None:
    application = with_everything
    daemon = application.start("v1")
    before = pids(application)
    (old_worker,) = workers(application, "serving")
    with Load(application.port) as load, application.websocket() as websocket:
        assert websocket.echo("one").startswith("v1:")
        upgrade(application, newer)
        (new_worker,) = workers(application, "serving")
        wait_until(
            lambda: '"retiring"' in (application.runtime_dir / "state.json").read_text(), "the state file knows it"
        )
        kill_and_wait(daemon)
        assert application.daemon is not None
        application.daemon.finish()
        application.command = python_command(newer)
        application.start_daemon()
        assert workers(application, "retiring") == [old_worker]
        assert workers(application, "serving") == [new_worker]
        assert websocket.echo("two").startswith("v1:")
        assert pids(application) == before
        application.deploy("v2")
        load.wait_for_release("v2")
        assert application.state_of("v1") == "draining"
    wait_until(lambda: not is_running(old_worker), "the old worker ends with its last connection")
    wait_until(lambda: application.state_of("v1") == "stopped", "and so does the drain")
    load.assert_no_failure()
    application.shutdown()


def test_newer_code_started_after_a_crash_replaces_the_workers(with_everything: Application, newer: Path) -> None:
    application = with_everything
    application.config["proxy"]["workers"] = 2
    daemon = application.start("v1")
    old_workers = workers(application, "serving")
    with Load(application.port, websocket=1) as load:
        kill_and_wait(daemon)
        assert application.daemon is not None
        application.daemon.finish()
        application.command = python_command(newer)
        application.start_daemon()
        load.wait_for_more()
        wait_until(lambda: not any(map(is_running, old_workers)), "the old workers have ended")
        load.wait_for_more()
    load.assert_no_failure()
    assert len(workers(application, "serving")) == 2
    application.shutdown()


def test_a_shutdown_ends_retiring_workers_too(with_everything: Application, newer: Path) -> None:
    application = with_everything
    application.start("v1")
    with application.websocket() as websocket:
        assert websocket.echo("one").startswith("v1:")
        upgrade(application, newer)
        assert len(workers(application, "retiring")) == 1
        application.shutdown()


# Other ways to it


def test_ensure_daemon_and_deploy_upgrade_when_they_are_asked_to(
    with_everything: Application, pyz: Path, newer: Path
) -> None:
    application = with_everything
    application.deploy("v1", "--ensure-daemon")
    daemon, before = application.daemon_pid(), pids(application)
    refused = application.run("ensure-daemon", command=python_command(newer), expect=4)
    assert "rollbridge upgrade" in refused.stderr
    result = application.run("ensure-daemon", "--upgrade", "--json", command=python_command(newer)).json
    assert (result["pid"], result["version"], result["started"], result["upgraded"]) == (daemon, "9.9.9", False, True)
    assert pids(application) == before
    application.run(*application.deploy_arguments("v2", "--ensure-daemon", "--upgrade"))
    assert (application.status()["version"], application.serving()[0]) == ("0.1.0", "v2")
    assert application.daemon_pid() == daemon
    again = application.run("ensure-daemon", "--upgrade", "--json").json
    assert again["upgraded"] is False
    application.deploy("v1", "--upgrade", expect=2)
    application.shutdown()


def test_a_foreground_daemon_takes_over_from_the_one_that_runs(
    with_everything: Application, pyz: Path, newer: Path
) -> None:
    application = with_everything
    first = application.start("v1")
    former = application.daemon
    assert former is not None
    before = pids(application)
    with Load(application.port, websocket=1) as load, application.websocket() as websocket:
        load.wait_for_more()
        application.command = python_command(newer)
        application.start_daemon("--takeover")
        assert former.finish().code == 0
        load.wait_for_more()
        assert websocket.echo("one").startswith("v1:")
    load.assert_no_failure()
    assert pids(application) == before
    assert application.daemon_pid() != first
    assert application.status()["version"] == "9.9.9"
    application.deploy("v2")
    application.shutdown()


def test_a_takeover_is_an_ordinary_start_when_nothing_runs_and_refused_by_a_busy_daemon(
    with_everything: Application, newer: Path
) -> None:
    application = with_everything
    gate = application.gate("boot")
    application.release("v2", boot_gate=gate)
    application.write_config()
    application.start_daemon("--takeover")
    application.deploy("v1")
    daemon = application.daemon_pid()
    deploy = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    assert "busy with deploy" in application.run("daemon", "--takeover", expect=4).stderr
    gate.open()
    assert deploy.finish().code == 0
    broken = newer_state(newer, application.root / "broken.pyz")
    assert "format" in application.run("daemon", "--takeover", command=python_command(broken), expect=4).stderr
    assert application.daemon_pid() == daemon
    application.shutdown()


def test_a_worker_killed_while_there_was_no_daemon_leaves_no_socket(application: Application, newer: Path) -> None:
    application.config["proxy"]["workers"] = 2
    application.release("v1")
    application.start("v1")
    upgrade(application, newer)
    wait_until(lambda: len(application.proxy_workers()) == 2, "the old workers have ended")
    # The names that those of an upgrade have are not used again by the next.
    kill_and_wait(application.daemon_pid())
    kill_and_wait(application.proxy_workers()[0].pid)
    application.run("recover", "--heal")
    assert len(list(application.runtime_dir.glob("worker-*.sock"))) == 3
    application.shutdown()
    assert list(application.runtime_dir.glob("worker-*")) == []
