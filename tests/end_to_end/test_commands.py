"""What the operator sees and does besides deploying."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime
from typing import Any

import pytest

from tests.support.application import Application, Command
from tests.support.http import HttpConnection
from tests.support.processes import send
from tests.support.waiting import wait_until

PROCESS_FIELDS = {
    "id",
    "process_id",
    "policy",
    "state",
    "pid",
    "restarts",
    "last_start_reason",
    "started_at",
    "uptime_seconds",
    "exit_code",
    "exit_signal",
    "rss_bytes",
    "memory_restarts",
    "last_memory_restart_at",
    "children",
    "logs",
}
RELEASE_FIELDS = {
    "release_id",
    "release_path",
    "revision",
    "state",
    "ports",
    "connections",
    "activated_at",
    "drain_started_at",
    "drain_ends_at",
    "stopped_at",
    "processes",
}


def with_everything(application: Application) -> None:
    application.processes["jobs"] = application.worker(replicas=2)
    application.processes["cron"] = application.worker("singleton")
    application.processes["broker"] = application.worker("service")


def test_status_has_the_documented_shape(application: Application) -> None:
    with_everything(application)
    application.release("v1")
    application.release("v2")
    pid = application.start("v1")
    application.deploy("v2")
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped")
    status = application.run("status", "--json").json
    assert status["application"] == application.name
    assert status["active_release_id"] == "v2"
    assert status["version"] == status["daemon"]["runtime"]["version"]
    assert status["daemon"]["pid"] == pid
    assert {"version", "digest", "path"} <= status["daemon"]["runtime"].keys()
    assert {"host", "port", "upstream_host", "workers"} <= status["proxy"].keys()
    assert status["proxy"]["port"] == application.port
    assert status["control"]
    assert status["orphans"] == []
    states = {release["release_id"]: release["state"] for release in status["releases"]}
    assert states == {"v1": "stopped", "v2": "active"}
    for release in status["releases"]:
        assert release.keys() >= RELEASE_FIELDS
        assert release["connections"].keys() == {"http", "websocket"}
    (v2,) = (release for release in status["releases"] if release["release_id"] == "v2")
    processes: list[dict[str, Any]] = [*v2["processes"], *status["services"], *status["singletons"]]
    assert sorted(process["process_id"] for process in processes) == ["broker", "cron", "jobs", "jobs", "web"]
    for process in processes:
        assert process.keys() >= PROCESS_FIELDS
        assert process["state"] == "running"
        assert process["rss_bytes"] > 0
        assert process["uptime_seconds"] >= 0
    assert len({process["id"] for process in processes}) == 5
    # Times are UTC with milliseconds.
    assert v2["activated_at"].endswith("Z")
    assert len(v2["activated_at"]) == len("2026-01-01T00:00:00.000Z")


def test_status_shows_the_children_of_a_process(application: Application) -> None:
    application.processes["web"]["command"] = "sleep 1000 & exec " + " ".join(application.stub()["command"])
    application.release("v1")
    application.start("v1")
    wait_until(
        lambda: any("sleep 1000" in child["command"] for child in application.process("web")["children"]),
        lambda: f"the child is shown: {application.process('web')['children']}",
    )


def test_status_for_people_names_what_matters(application: Application) -> None:
    with_everything(application)
    application.release("v1")
    application.start()
    assert application.run("status").code == 0
    application.deploy("v1")
    text = application.run("status").stdout
    for word in (application.name, "v1", "active", "web", "jobs", "cron", "broker", str(application.port)):
        assert word in text


def test_status_tells_what_a_retired_release_waits_for_and_until_when(application: Application) -> None:
    application.config["proxy"]["drain_timeout"] = "300s"
    for name in ("v1", "v2"):
        application.release(name)
    application.start("v1")
    assert application.release_status("v1")["drain_ends_at"] is None
    with application.websocket() as old:
        assert old.echo("one").startswith("v1:")
        application.deploy("v2")
        retired = application.release_status("v1")
        began, end = (datetime.fromisoformat(retired[key]) for key in ("drain_started_at", "drain_ends_at"))
        assert (end - began).total_seconds() == 300
        text = application.run("status").stdout
        assert f"v1 ends: waits for 1 connection, until {end.astimezone():%H:%M:%S} (" in text
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 stops when its last WebSocket has closed")
    assert application.release_status("v1")["drain_ends_at"] is None
    assert "v1 ends" not in application.run("status").stdout


def test_connections_are_counted_and_return_to_zero(application: Application) -> None:
    gate = application.gate("request")
    application.release("v1")
    application.start("v1")

    def connections() -> dict[str, int]:
        counts: dict[str, int] = application.release_status("v1")["connections"]
        return counts

    with HttpConnection(application.port) as connection, application.websocket() as websocket:
        connection.send_request("GET", f"/gate?{gate}")
        assert websocket.echo("x").startswith("v1:")
        wait_until(lambda: connections() == {"http": 1, "websocket": 1}, lambda: str(connections()))
        gate.open()
        assert connection.read_response().text == "passed"
        wait_until(lambda: connections()["http"] == 0, lambda: str(connections()))
    wait_until(lambda: connections() == {"http": 0, "websocket": 0}, lambda: str(connections()))


def test_commands_without_a_daemon_end_with_3(application: Application) -> None:
    for command in ("status", "events", "logs", "stop", "restart", "shutdown", "rollback"):
        result = application.run(command, expect=3)
        assert "Traceback" not in result.stderr


def test_stop_answers_503_and_a_deploy_brings_it_back(application: Application) -> None:
    with_everything(application)
    application.release("v1")
    application.start("v1")
    application.run("stop")
    response = application.get()
    assert response.status == 503
    assert "retry-after" in response.headers
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped")
    assert application.status()["active_release_id"] is None
    application.deploy("v1")
    assert application.serving()[0] == "v1"
    application.run("stop", "--release-id", "v1")
    assert application.get().status == 503
    application.run("rollback")
    assert application.serving()[0] == "v1"


def test_stop_of_what_does_not_run_is_refused(application: Application) -> None:
    application.start()
    application.run("stop", expect=4)
    application.run("stop", "--release-id", "v9", expect=4)
    assert application.get().status == 503


def test_before_the_first_deploy_the_proxy_answers_503(application: Application) -> None:
    application.start()
    assert application.get().status == 503


def test_restart_bounces_what_is_asked_for_and_never_the_proxied_process(application: Application) -> None:
    with_everything(application)
    application.release("v1")
    application.start("v1")

    def pids() -> dict[str, int]:
        return {process["id"]: process["pid"] for process in application.all_process_statuses()}

    before = pids()
    application.run("restart", "--process", "jobs")
    after = pids()
    changed = {name for name in before if before[name] != after[name]}
    assert len(changed) == 2
    assert all("jobs" in name for name in changed)
    application.run("restart", "--policy", "service")
    assert {name for name in after if after[name] != pids()[name]} == {"broker"}
    before = pids()
    application.run("restart")
    assert {name for name in before if before[name] == pids()[name]} == {
        process["id"] for process in application.process_statuses("web")
    }
    assert application.process("cron")["last_start_reason"] == "manual"
    for arguments in (["--process", "web"], ["--policy", "proxied"], ["--process", "nothing"]):
        result = application.run("restart", *arguments, expect=4)
        assert "Traceback" not in result.stderr
    assert application.serving()[0] == "v1"


def test_events_tell_the_story_and_follow_goes_on(application: Application) -> None:
    application.release("v1")
    application.release("v2")
    application.start("v1")
    events = application.run("events", "--json").json
    events = events["events"] if isinstance(events, dict) else events
    for event in events:
        assert event.keys() >= {"at", "message", "data"}
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    limited = application.run("events", "--limit", "2", "--json").json
    assert len(limited["events"] if isinstance(limited, dict) else limited) == 2
    follower = application.spawn("events", "--follow", "--json")
    wait_until(lambda: "v1" in follower.stdout, "what was there is shown")
    application.deploy("v2")
    wait_until(lambda: "release activated" in follower.stdout and "v2" in follower.stdout, "the deploy is shown")
    for line in follower.stdout.splitlines():
        json.loads(line)
    send(follower.pid, signal.SIGINT)
    assert "Traceback" not in follower.finish(10).stderr


def test_followers_end_with_the_daemon(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    followers = [application.spawn("events", "--follow"), application.spawn("logs", "--follow")]
    wait_until(lambda: all(follower.stdout for follower in followers), "both followers show something")
    application.shutdown()
    for follower in followers:
        assert "Traceback" not in follower.finish(10).stderr


def test_events_record_who_asked_for_what(application: Application) -> None:
    application.release("v1")
    application.start("v1")

    (event,) = application.events("deploy requested")
    assert event["data"]["uid"] == os.getuid()
    assert event["data"]["pid"] > 0


def test_progress_goes_to_stderr_and_the_result_to_stdout(application: Application) -> None:
    application.release("v1")
    application.start()
    result = application.deploy("v1", "--json")
    assert json.loads(result.stdout)["active_release_id"] == "v1"
    assert "healthy" in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [["deploy"], ["fly"], ["status", "--no-such-option"], []], ids=["missing", "unknown", "option", "none"]
)
def test_wrong_usage_ends_with_2(application: Application, arguments: list[str]) -> None:

    result = Command([*application.command, *arguments], application.env, application.root).finish()
    assert result.code == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.strip()


def test_the_state_file_is_private_and_holds_no_secret(application: Application) -> None:
    application.processes["web"]["env"] = {"PASSWORD": "hunter2-secret"}
    application.release("v1", lines=["printed-secret"])
    application.start("v1")
    path = application.runtime_dir / "state.json"
    wait_until(lambda: '"v1"' in path.read_text(), "the state is written")
    application.shutdown()
    text = path.read_text()
    assert "format" in json.loads(text)
    assert path.stat().st_mode & 0o777 == 0o600
    for secret in ("hunter2-secret", "printed-secret", "app.py"):
        assert secret not in text
