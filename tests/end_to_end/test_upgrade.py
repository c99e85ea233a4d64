"""``upgrade``: the running daemon continues as other code, under load, with nothing lost and nothing restarted."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from tests.support.application import Application, python_command
from tests.support.builds import build_version
from tests.support.load import Load
from tests.support.processes import is_running, kill_and_wait
from tests.support.waiting import wait_until


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


def upgrade(application: Application, pyz: Path, *arguments: str, expect: int = 0) -> dict[str, object]:
    result = application.run("upgrade", "--json", *arguments, command=python_command(pyz), expect=expect)
    answer: dict[str, object] = result.json
    return answer


def pids(application: Application) -> dict[str, int]:
    return {process["id"]: process["pid"] for process in application.all_process_statuses()}


@pytest.fixture
def with_everything(application: Application) -> Application:
    application.processes["jobs"] = application.worker(replicas=2)
    application.processes["cron"] = application.worker("singleton")
    application.processes["broker"] = application.worker("service")
    for name in ("v1", "v2"):
        application.release(name)
    return application


def test_no_request_fails_and_nothing_is_restarted(with_everything: Application, newer: Path) -> None:
    application = with_everything
    daemon = application.start("v1")
    before = pids(application)
    (old_worker,) = application.proxy_workers()
    with Load(application.port, websocket=1) as load, application.websocket() as websocket:
        assert websocket.echo("one").startswith("v1:")
        load.wait_for_more()
        answer = upgrade(application, newer)
        assert (answer["version"], answer["previous_version"], answer["pid"]) == ("9.9.9", "0.1.0", daemon)
        load.wait_for_more()
        assert websocket.echo("two").startswith("v1:")
        assert pids(application) == before
        assert application.status()["version"] == "9.9.9"
        assert application.daemon_pid() == daemon
        workers = application.status()["proxy"]["workers"]
        assert [worker["state"] for worker in workers] == ["serving", "retiring"]
        assert workers[1]["pid"] == old_worker.pid
        application.deploy("v2")
        load.wait_for_release("v2")
        assert websocket.echo("three").startswith("v1:")
        assert application.release_status("v1")["connections"]["websocket"] == 1
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped after its last WebSocket")
    wait_until(lambda: not is_running(old_worker.pid), "the old worker has ended")
    load.assert_no_failure()
    application.shutdown()
    print(json.dumps(answer))


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
