"""Services, singletons and companions across deploys."""

from __future__ import annotations

import pytest

from tests.support.application import Application
from tests.support.ports import free_block
from tests.support.processes import is_running
from tests.support.waiting import wait_until


def test_singletons_never_overlap_across_ten_deploys(application: Application) -> None:
    application.processes["cron"] = application.worker("singleton", env={"LINGERS_SECONDS": "0.05"})
    application.release("v0")
    application.start("v0")
    for number in range(1, 11):
        application.release(f"v{number}")
        application.deploy(f"v{number}")
    wait_until(lambda: len(application.journal("start", "cron")) == 11, "eleven singletons have started")
    running: int | None = None
    for entry in application.journal(process="cron"):
        if entry["event"] == "start":
            assert running is None, f"{entry['release']} started while pid {running} ran"
            running = entry["pid"]
        elif entry["event"] == "stop":
            assert running == entry["pid"]
            running = None
    assert running is not None
    assert is_running(running)
    releases = [entry["release"] for entry in application.journal("start", "cron")]
    assert releases == [f"v{number}" for number in range(11)]


def test_a_singleton_that_does_not_start_is_reported_with_traffic_on_the_new_release(
    application: Application,
) -> None:
    application.processes["cron"] = application.worker("singleton")
    application.release("v1")
    application.release("v2")
    application.start("v1")
    application.processes["cron"]["command"] = ["no-such-scheduler"]
    application.write_config()
    result = application.deploy("v2", expect=1)
    assert "no-such-scheduler" in result.stderr
    assert application.serving()[0] == "v2"
    assert application.status()["active_release_id"] == "v2"
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 retires all the same")


def test_a_service_survives_deploys_and_takes_the_new_definition_at_its_next_restart(
    application: Application,
) -> None:
    application.processes["broker"] = application.worker("service", env={"MODE": "one"})
    application.release("v1")
    application.release("v2")
    application.start("v1")
    pid = application.pid_of("broker")
    application.processes["broker"]["env"] = {"MODE": "two"}
    application.write_config()
    application.deploy("v2")
    assert application.pid_of("broker") == pid
    application.run("restart", "--process", "broker")
    wait_until(lambda: len(application.journal("start", "broker")) == 2, "the broker has started again")
    assert [entry["mode"] for entry in application.journal("start", "broker")] == ["one", "two"]
    assert application.journal("start", "broker")[1]["release"] == "v2"
    assert application.pid_of("broker") != pid


def test_a_failed_deploy_stops_the_services_it_started_and_spares_those_that_ran(application: Application) -> None:
    application.processes["broker"] = application.worker("service")
    application.processes["cache"] = application.worker("service")
    application.release("v1", exit_code=3)
    application.start()
    application.deploy("v1", expect=1)
    wait_until(
        lambda: len(application.journal("start")) == len(application.journal("stop")), "both services are stopped"
    )
    assert not any(is_running(entry["pid"]) for entry in application.journal("start"))
    application.release("v1")
    application.deploy("v1")
    pids = {application.pid_of("broker"), application.pid_of("cache")}
    application.release("v2", exit_code=3)
    application.deploy("v2", expect=1)
    assert {application.pid_of("broker"), application.pid_of("cache")} == pids
    assert application.serving()[0] == "v1"


def test_a_handoff_service_runs_once_for_each_release_and_goes_with_it(application: Application) -> None:
    first = free_block(4)
    application.processes["engine"] = application.worker(
        "service", deploy_strategy="handoff", port={"from": first, "to": first + 3}
    )
    application.processes["web"]["env"] = {"ENGINE": "{{ports.engine}}"}
    application.release("v1")
    application.release("v2")
    application.start("v1")
    with application.websocket() as old:
        assert old.echo("one").startswith("v1:")
        application.deploy("v2")
        ports = {entry["release"]: entry["port"] for entry in application.journal("start", "engine")}
        assert set(ports) == {"v1", "v2"}
        assert ports["v1"] != ports["v2"]
        environment = application.get("/env").text
        assert f'"ENGINE": "{ports["v2"]}"' in environment
        assert f'"ROLLBRIDGE_ENGINE_PORT": "{ports["v2"]}"' in environment
        # v1 still drains: its engine lives as long as it does.
        assert application.pid_of("engine", "v1")
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped")
    (stopped,) = application.journal("stop", "engine")
    assert stopped["release"] == "v1"
    assert is_running(application.pid_of("engine", "v2"))


def test_companions_run_as_many_replicas_as_asked_beside_each_release(application: Application) -> None:
    application.processes["jobs"] = application.worker(replicas=3)
    application.release("v1")
    application.release("v2")
    application.start("v1")
    application.deploy("v2")
    wait_until(lambda: len(application.journal("start", "jobs")) == 6, "three replicas for each release have started")
    started = {(entry["release"], entry["replica"]) for entry in application.journal("start", "jobs")}
    assert started == {(release, replica) for release in ("v1", "v2") for replica in "012"}
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped")
    assert {entry["release"] for entry in application.journal("stop", "jobs")} == {"v1"}
    assert all(is_running(process["pid"]) for process in application.process_statuses("jobs", "v2"))


@pytest.mark.parametrize("is_early", [True, False], ids=["non_blocking_drain", "default"])
def test_a_companion_stops_with_the_drain_or_before_it_as_configured(application: Application, is_early: bool) -> None:
    application.processes["jobs"] = application.worker(non_blocking_drain=is_early)
    application.release("v1")
    application.release("v2")
    application.start("v1")
    with application.websocket() as old:
        assert old.echo("one").startswith("v1:")
        application.deploy("v2")
        assert application.state_of("v1") == "draining"
        if is_early:
            wait_until(lambda: application.journal("stop", "jobs"), "the companion stops before the drain is over")
            assert application.state_of("v1") == "draining"
        else:
            assert is_running(application.pid_of("jobs", "v1"))
        assert old.echo("two").startswith("v1:")
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped")
    assert [entry["release"] for entry in application.journal("stop", "jobs")] == ["v1"]


def test_processes_get_the_injected_environment_and_their_own_wins(application: Application) -> None:
    application.processes["web"]["env"] = {"OWN": "{{release_id}}-{{env.LANG}}", "ROLLBRIDGE_REVISION": "mine"}
    application.release("v1")
    application.start()
    application.deploy("v1", "--revision", "abc123")
    environment = application.get("/env").text
    (port,) = application.release_status("v1")["ports"]["web"]
    for name, value in {
        "ROLLBRIDGE_APPLICATION": application.name,
        "ROLLBRIDGE_PROCESS_ID": "web",
        "ROLLBRIDGE_RELEASE_ID": "v1",
        "ROLLBRIDGE_RELEASE_PATH": str(application.root / "releases" / "v1"),
        "ROLLBRIDGE_REPLICA_INDEX": "0",
        "ROLLBRIDGE_REPLICA_COUNT": "1",
        "ROLLBRIDGE_PORT": str(port),
        "ROLLBRIDGE_WEB_PORT": str(port),
        "ROLLBRIDGE_REVISION": "mine",
        "OWN": "v1-C.UTF-8",
    }.items():
        assert f'"{name}": "{value}"' in environment
    assert application.release_status("v1")["revision"] == "abc123"
