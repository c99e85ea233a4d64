"""The way back."""

from __future__ import annotations

import shutil

from tests.support.application import Application
from tests.support.load import Load
from tests.support.processes import is_running
from tests.support.waiting import wait_until


def test_rollback_returns_to_the_most_recently_retired_release_without_a_failure(application: Application) -> None:
    for name in ("v1", "v2", "v3"):
        application.release(name)
    application.start("v1")
    application.deploy("v2")
    with Load(application.port) as load:
        application.deploy("v3")
        wait_until(lambda: application.state_of("v2") == "stopped", "v2 is stopped")
        answer = application.run("rollback", "--json").json
        assert (answer["active_release_id"], answer["previous_release_id"]) == ("v2", "v3")
        load.wait_for_release("v2")
        load.wait_for_more()
    load.assert_no_failure()
    assert application.serving()[0] == "v2"


def test_rollback_goes_to_a_named_release(application: Application) -> None:
    for name in ("v1", "v2", "v3"):
        application.release(name)
    application.start("v1")
    application.deploy("v2")
    application.deploy("v3")
    application.run("rollback", "--release-id", "v1")
    assert application.serving()[0] == "v1"
    result = application.run("rollback", "--release-id", "v9", expect=4)
    assert "v9" in result.stderr
    assert application.serving()[0] == "v1"


def test_rollback_with_nothing_to_return_to_is_refused(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    application.run("rollback", expect=4)
    assert application.serving()[0] == "v1"


def test_a_release_that_still_drains_comes_back_as_it_is(application: Application) -> None:
    application.processes["jobs"] = application.worker(replicas=2)
    application.release("v1")
    application.release("v2")
    application.start("v1")
    before = {process["id"]: process["pid"] for process in application.release_status("v1")["processes"]}
    with Load(application.port) as load, application.websocket() as old:
        assert old.echo("one").startswith("v1:")
        application.deploy("v2")
        load.wait_for_release("v2")
        assert application.state_of("v1") == "draining"
        application.run("rollback")
        assert application.state_of("v1") == "active"
        assert old.echo("two").startswith("v1:")
        wait_until(lambda: application.state_of("v2") == "stopped", "v2 is stopped")
        # Its drain is off for good: nobody comes later to stop what serves again.
        assert old.echo("three").startswith("v1:")
        load.wait_for_more()
    load.assert_no_failure()
    after = {process["id"]: process["pid"] for process in application.release_status("v1")["processes"]}
    assert after == before
    assert application.process_statuses("web", "v1")[0]["restarts"] == 0


def test_the_drain_of_a_release_that_came_back_begins_anew_when_it_retires_again(application: Application) -> None:
    application.release("v1")
    application.release("v2")
    application.release("v3")
    application.start("v1")
    with application.websocket() as old:
        assert old.echo("one").startswith("v1:")
        application.deploy("v2")
        application.run("rollback")
        application.deploy("v3")
        assert application.state_of("v1") == "draining"
        assert old.echo("two").startswith("v1:")
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped after its last WebSocket")


def test_rollback_to_a_release_whose_directory_is_gone_is_refused(application: Application) -> None:

    path = application.release("v1")
    application.release("v2")
    application.start("v1")
    application.deploy("v2")
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped")
    shutil.rmtree(path)
    result = application.run("rollback", expect=None)
    assert result.code in (1, 4)
    assert str(path) in result.stderr
    assert application.serving()[0] == "v2"


def test_a_rollback_that_fails_leaves_the_active_release(application: Application) -> None:
    application.release("v1")
    application.release("v2")
    application.start("v1")
    application.deploy("v2")
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped")
    before = application.serving()
    application.release("v1", exit_code=3)
    application.run("rollback", expect=1)
    assert application.serving() == before
    assert is_running(before[1])


def test_retention_keeps_as_many_stopped_releases_as_it_says(application: Application) -> None:
    application.config["release_retention"] = {"keep": 2}
    application.release("v0")
    application.start("v0")
    for number in range(1, 6):
        application.release(f"v{number}")
        application.deploy(f"v{number}")

    def retained() -> list[str]:
        return [release["release_id"] for release in application.status()["releases"]]

    wait_until(lambda: retained() == ["v3", "v4", "v5"], lambda: f"v3 to v5 are retained, not {retained()}")
