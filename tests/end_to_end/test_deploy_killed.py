"""The daemon is killed after each step of a deploy and of a rollback, under load: it is undone, or completed.

Which of the two is read from the table in docs/recovery.md.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rollbridge.release.steps import Step
from tests.support.application import Application
from tests.support.load import Load
from tests.support.processes import is_running, marked
from tests.support.waiting import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "recovery.md"
VARIABLE = "ROLLBRIDGE_TEST_KILL_AFTER"
KINDS = ("web", "jobs", "cron", "broker")
STARTED = ("jobs", "web")  # of the candidate, in their order


def outcomes() -> list[tuple[str, str]]:
    """Every row of the page's table, for the processes of these tests."""
    rows = re.findall(r"^\| `([^`]+)`(?: \(each\))? \| (undone|completed) \|$", PAGE.read_text(), re.MULTILINE)
    found = []
    for point, outcome in rows:
        if "PROCESS" in point:
            found += [(point.replace("PROCESS", f"RELEASE.{name}.0"), outcome) for name in STARTED]
        else:
            found.append((point.replace("ID", "cron"), outcome))
    return found


OUTCOMES = outcomes()
# A rollback to a release that still drains starts nothing: it has fewer steps.
AS_IT_IS = [row for row in OUTCOMES if row[0].partition(":")[0] not in ("ports", "start", "health")]
# A first deploy has nothing to stop.
FIRST = [row for row in OUTCOMES if not row[0].endswith(" stopped")]


def test_the_page_knows_every_step_in_its_order() -> None:
    told = dict.fromkeys(point.partition(":")[0] for point, _ in OUTCOMES)
    assert list(told) == [step.value for step in Step if step is not Step.UNDO]
    states = [outcome for _, outcome in OUTCOMES]
    assert states == sorted(states, reverse=True)  # undone up to some step, completed from there on


@pytest.fixture
def with_everything(application: Application) -> Application:
    application.processes["jobs"] = application.worker()
    application.processes["cron"] = application.worker("singleton")
    application.processes["broker"] = application.worker("service")
    for name in ("v1", "v2"):
        application.release(name)
    return application


def kill_daemon(application: Application) -> None:
    assert application.daemon is not None
    application.daemon.kill()
    application.daemon = None


def killed_during(application: Application, point: str, *command: str) -> None:
    """Run ``command`` against a daemon that ends after ``point``; what ran before is taken over by that one."""
    if application.daemon is not None:
        kill_daemon(application)
    application.start_daemon(env={VARIABLE: point})
    daemon = application.daemon
    assert daemon is not None
    sent = application.spawn(*command)
    assert daemon.finish().code == -9
    sent.finish()
    application.daemon = None


def singletons_alive(application: Application) -> list[int]:
    starts = [entry["pid"] for entry in application.journal("start", "cron")]
    return [pid for pid in starts if is_running(pid)]


def living(application: Application) -> dict[str, int]:
    return {one["id"]: one["pid"] for one in application.all_process_statuses() if one["pid"] is not None}


def check(application: Application, outcome: str, old: str, new: str, before: dict[str, int]) -> None:
    """After the next daemon: what was to be undone is as it was, what was to be completed is."""
    serves = old if outcome == "undone" else new
    assert application.status()["active_release_id"] == serves
    assert application.serving()[0] == serves
    if outcome == "undone":
        assert living(application) == before
        assert {one["state"] for one in application.status()["releases"] if one["release_id"] == new} <= {
            "failed",
            "stopped",
        }
    else:
        wait_until(lambda: application.state_of(old) == "stopped", "the old one has drained and is stopped")
        now = living(application)
        assert sorted(name.rsplit(".", 2)[-2] if "." in name else name for name in now) == sorted(KINDS)
        assert now["broker"] == before["broker"]
        assert application.process("cron")["release_id"] == new
    check_singleton(application)
    assert application.status()["orphans"] == []


def check_singleton(application: Application) -> None:
    """Exactly one runs: the one that the daemon knows."""
    wait_until(
        lambda: singletons_alive(application) == [application.pid_of("cron")], "one singleton runs, and is known"
    )


@pytest.mark.parametrize(("point", "outcome"), OUTCOMES)
def test_a_deploy_whose_daemon_is_killed_after_a_step(with_everything: Application, point: str, outcome: str) -> None:
    application = with_everything
    application.start("v1")
    before = living(application)
    with Load(application.port) as load:
        killed_during(application, point.replace("RELEASE", "v2"), *application.deploy_arguments("v2"))
        load.wait_for_more()
        application.start_daemon()
        check(application, outcome, "v1", "v2", before)
        load.wait_for_more()
    load.assert_no_failure()
    application.deploy("v2")  # whatever became of it, the next one goes through
    assert application.serving()[0] == "v2"
    application.shutdown()


@pytest.mark.parametrize(("point", "outcome"), OUTCOMES)
def test_a_rollback_whose_daemon_is_killed_after_a_step(with_everything: Application, point: str, outcome: str) -> None:
    application = with_everything
    application.start("v1")
    application.deploy("v2")
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped")
    before = living(application)
    with Load(application.port) as load:
        killed_during(application, point.replace("RELEASE", "v1~2"), "rollback")
        load.wait_for_more()
        application.start_daemon()
        check(application, outcome, "v2", "v1", before)
        load.wait_for_more()
    load.assert_no_failure()
    application.shutdown()


@pytest.mark.parametrize(("point", "outcome"), AS_IT_IS)
def test_a_rollback_to_a_release_that_drains_whose_daemon_is_killed_after_a_step(
    with_everything: Application, point: str, outcome: str
) -> None:
    application = with_everything
    application.start("v1")
    v1 = application.pid_of("web", "v1")
    with Load(application.port) as load, application.websocket() as websocket:
        assert websocket.echo("one").startswith("v1:")
        application.deploy("v2")
        assert application.state_of("v1") == "draining"
        killed_during(application, point, "rollback")
        assert websocket.echo("two").startswith("v1:")
        application.start_daemon()
        serves = "v2" if outcome == "undone" else "v1"
        assert application.serving()[0] == serves
        assert application.pid_of("web", "v1") == v1
        assert websocket.echo("three").startswith("v1:")
        check_singleton(application)
        assert application.process("cron")["release_id"] == serves
        load.wait_for_more()
    other = "v1" if serves == "v2" else "v2"
    wait_until(lambda: application.state_of(other) == "stopped", "the other one drains and is stopped")
    load.assert_no_failure()
    application.shutdown()


@pytest.mark.parametrize(("point", "outcome"), FIRST)
def test_a_first_deploy_whose_daemon_is_killed_after_a_step(
    with_everything: Application, point: str, outcome: str
) -> None:
    application = with_everything
    application.start()
    killed_during(application, point.replace("RELEASE", "v1"), *application.deploy_arguments("v1"))
    application.start_daemon()
    if outcome == "completed":
        assert application.serving()[0] == "v1"
        assert len(living(application)) == len(KINDS)
        check_singleton(application)
    else:
        assert application.get().status == 503
        assert living(application) == {}  # the service too: nothing had asked for it but this deploy
        assert len(marked(application.mark)) == 2  # the daemon and its proxy worker
        assert singletons_alive(application) == []
    application.deploy("v1")
    assert application.serving()[0] == "v1"
    check_singleton(application)
    application.shutdown()


def test_a_step_that_there_is_not_is_refused(application: Application) -> None:
    refused = application.run("daemon", env={VARIABLE: "lunch"}, expect=2)
    assert f"{VARIABLE} names no step: lunch" in refused.stderr
