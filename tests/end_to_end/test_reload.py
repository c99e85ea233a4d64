"""SIGHUP and ``rollbridge reload``: the config is read again, logs are opened anew, and nobody notices."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.application import Application
from tests.support.load import Load
from tests.support.manager import FakeManager
from tests.support.ports import free_block
from tests.support.processes import send
from tests.support.waiting import wait_until

Reload = Callable[[Application], None]


def hang_up(application: Application) -> None:
    """Send SIGHUP and wait until it has been acted on."""
    before = len(outcomes(application))
    send(application.daemon_pid(), signal.SIGHUP)
    wait_until(lambda: len(outcomes(application)) > before, "the config was adopted, or was not")


def outcomes(application: Application) -> list[str]:
    messages = [event["message"] for event in application.events()]
    return [message for message in messages if message in ("config reloaded", "config not adopted")]


def by_command(application: Application) -> None:
    application.run("reload")


BOTH = pytest.mark.parametrize("reload", [hang_up, by_command], ids=["signal", "command"])


def environment_of_web(application: Application) -> dict[str, str]:
    environment: dict[str, str] = json.loads(application.get("/env").body)
    return environment


@BOTH
def test_a_setting_of_the_proxy_counts_at_once_and_nothing_is_restarted(
    application: Application, reload: Reload
) -> None:
    application.release("v1")
    application.start("v1")
    before = application.serving()
    gate = application.gate("slow")
    application.config["proxy"]["response_timeout"] = "200ms"
    application.write_config()
    reload(application)
    assert application.get(f"/gate?{gate}").status == 504
    assert application.serving() == before


@BOTH
def test_a_definition_counts_from_the_next_start_of_its_process(application: Application, reload: Reload) -> None:
    application.processes["web"]["env"] = {"COLOUR": "blue"}
    application.processes["jobs"] = application.worker(env={"COLOUR": "blue"})
    application.processes["clock"] = application.worker("singleton", env={"COLOUR": "blue"})
    application.processes["broker"] = application.worker("service", env={"COLOUR": "blue"})
    application.release("v1")
    application.start("v1")
    pids = {name: application.pid_of(name) for name in application.processes}
    for process in application.processes.values():
        process["env"] = {"COLOUR": "green"}
    application.write_config()
    reload(application)
    assert {name: application.pid_of(name) for name in application.processes} == pids
    assert environment_of_web(application)["COLOUR"] == "blue"
    application.run("restart")
    for name in ("jobs", "clock", "broker"):
        assert "COLOUR=green" in Path(f"/proc/{application.pid_of(name)}/environ").read_text().split("\0"), name
    application.get("/crash")
    wait_until(lambda: application.serving()[1] != pids["web"], "the web process has been started again")
    assert environment_of_web(application)["COLOUR"] == "green"


def test_an_unchanged_config_is_said_to_be_unchanged(application: Application) -> None:
    application.start()
    assert application.run("reload").stdout == "logs reopened, config unchanged\n"
    application.config["proxy"]["hold_timeout"] = "3s"
    application.write_config()
    assert application.run("reload").stdout == "logs reopened, config adopted\n"
    assert application.run("reload", "--json").json == {"status": "success", "changed": False}


def test_a_change_that_takes_a_restart_is_refused_named_and_nothing_of_it_is_adopted(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    application.config["proxy"] |= {"port": free_block(1), "max_head": "1KiB"}
    application.processes["extra"] = application.worker()
    application.write_config()
    result = application.run("reload", expect=4)
    assert "proxy.port" in result.stderr
    assert "processes.extra" in result.stderr
    hang_up(application)
    events = application.events("config not adopted")
    assert len(events) == 2
    assert all("proxy.port, processes.extra" in event["data"]["error"] for event in events)
    # Not even that which could have been: half a config is nobody's.
    assert application.get(headers={"X-Long": "x" * 3000}).status == 200


def test_a_broken_config_is_an_event_with_its_problems_and_the_old_one_stays(application: Application) -> None:
    application.release("v1")
    application.release("v2")
    application.start("v1")
    good = application.config_path.read_text()
    application.config_path.write_text(good.replace("health_timeout", "healht_timeout").replace("policy", "polici"))
    result = application.run("reload", expect=2)
    assert "did you mean" in result.stderr
    hang_up(application)
    event = application.events("config not adopted")[-1]
    assert len(event["data"]["problems"]) >= 2
    assert any("healht_timeout" in problem for problem in event["data"]["problems"])
    assert application.serving()[0] == "v1"
    application.config_path.write_text(good)
    application.deploy("v2")


def test_a_definition_that_cannot_be_started_here_is_refused_as_a_whole(application: Application) -> None:
    application.processes["jobs"] = application.worker(env={"A": "1"})
    application.release("v1")
    application.start("v1")
    application.processes["web"]["env"] = {"COLOUR": "green"}
    application.processes["jobs"]["env"] = {"A": "{{env.NOT_SET_ANYWHERE}}"}
    application.write_config()
    result = application.run("reload", expect=2)
    assert "NOT_SET_ANYWHERE" in result.stderr
    pid = application.serving()[1]
    application.get("/crash")
    wait_until(lambda: application.serving()[1] != pid, "the web process has been started again")
    assert "COLOUR" not in environment_of_web(application)


def test_a_reload_waits_for_a_deploy_and_is_not_undone_by_it(application: Application) -> None:
    gate = application.gate("boot")
    slow = application.gate("slow")
    application.release("v1")
    application.release("v2", boot_gate=gate)
    application.start("v1")
    deploying = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    application.config["proxy"]["response_timeout"] = "200ms"
    application.write_config()
    pid = application.daemon_pid()
    for _ in range(5):
        send(pid, signal.SIGHUP)
    reloading = application.spawn("reload")
    wait_until(lambda: application.events("reload requested"), "the command waits")
    assert reloading.is_running
    assert outcomes(application) == []
    gate.open()
    assert deploying.finish().code == 0
    assert reloading.finish().code == 0
    assert application.get(f"/gate?{slow}").status == 504
    assert application.serving()[0] == "v2"


def test_the_service_manager_hears_of_a_reload_and_of_its_end(application: Application) -> None:
    with FakeManager(application.root / "notify") as manager:
        application.env |= manager.environ
        application.start()
        manager.wait_status("no release")
        first = len(manager.receive())
        before = time.monotonic()
        send(application.daemon_pid(), signal.SIGHUP)
        manager.wait_for("RELOADING", "1", since=first)
        manager.wait_for("READY", "1", since=first)
        begun = next(told.values for told in manager.told[first:] if "RELOADING" in told.values)
        assert before < int(begun["MONOTONIC_USEC"]) / 1_000_000 < time.monotonic()
        # A config that is refused ends the reload as well.
        application.config_path.write_text("no TOML")
        second = len(manager.told)
        send(application.daemon_pid(), signal.SIGHUP)
        manager.wait_for("RELOADING", "1", since=second)
        manager.wait_for("READY", "1", since=second)


def test_a_reload_during_the_start_is_not_lost(application: Application) -> None:
    gate, slow = application.gate("boot"), application.gate("slow")
    application.release("v1", boot_gate=gate)
    application.daemon = application.spawn("daemon", "--release-path", str(application.root / "releases" / "v1"))
    gate.wait_reached()
    application.config["proxy"]["response_timeout"] = "200ms"
    application.write_config()
    send(application.daemon.pid, signal.SIGHUP)
    gate.open()
    wait_until(lambda: outcomes(application) == ["config reloaded"], "the config was adopted")
    assert application.get(f"/gate?{slow}").status == 504


# --- logs


def line_count(paths: list[Path]) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in paths if path.exists())


def test_logs_are_rotated_under_load_without_a_lost_line_or_a_failed_request(application: Application) -> None:
    access = application.root / "access.log"
    daemon_log = application.root / "elsewhere" / "daemon.log"
    daemon_log.parent.mkdir()
    application.config["proxy"] |= {"access_log": str(access), "workers": 2}
    application.release("v1")
    application.write_config()
    application.run("ensure-daemon", "--daemon-log-path", str(daemon_log))
    application.deploy("v1")
    workers_log = application.runtime_dir / "workers.log"
    logs = [access, daemon_log, workers_log]
    rounds = 5
    with Load(application.port) as load:
        for turn in range(1, rounds + 1):
            load.wait_for_more(100)
            for log in logs:
                log.rename(f"{log}.{turn}")
            hang_up(application)
            for log in logs:
                wait_until(log.exists, f"{log} is there again")
            wait_until(lambda: access.stat().st_size, "the new file is written")
    load.assert_no_failure()
    served = application.get("/").status == 200  # not of the load
    assert served
    every = [access, *(Path(f"{access}.{turn}") for turn in range(1, rounds + 1))]
    wait_until(
        lambda: line_count(every) == load.total + 1,
        lambda: f"a line for each of {load.total + 1} requests; there are {line_count(every)}",
    )
    for path in every:
        assert all("method" in json.loads(line) for line in path.read_text().splitlines()), path
    # Every event since the start is in one of the daemon's logs, in order, and nothing else.
    logged = [*(Path(f"{daemon_log}.{turn}") for turn in range(1, rounds + 1)), daemon_log]
    events = [json.loads(line) for path in logged for line in path.read_text().splitlines()]
    kept = application.events()
    assert [event["message"] for event in events] == [event["message"] for event in kept][: len(events)]
    assert len(events) >= len(kept) - 1
    # Both streams of the daemon, and stderr of each worker, have left the old files.
    writers = [application.daemon_pid(), *(line.pid for line in application.proxy_workers())]
    assert len(writers) == 3
    for pid in writers:
        targets = {os.readlink(f"/proc/{pid}/fd/{number}") for number in (1, 2)}  # noqa: PTH115
        assert targets <= {str(daemon_log), str(workers_log)}, pid


def test_a_config_that_is_refused_does_not_keep_the_logs_from_being_opened_anew(application: Application) -> None:
    access = application.root / "access.log"
    application.config["proxy"]["access_log"] = str(access)
    application.release("v1")
    application.start("v1")
    application.get("/")
    wait_until(lambda: access.read_bytes(), "a line is there")
    application.config_path.write_text("no TOML")
    access.rename(f"{access}.1")
    send(application.daemon_pid(), signal.SIGHUP)
    wait_until(access.exists, "the new file is there")
    assert application.serving()[0] == "v1"


def test_a_log_that_cannot_be_opened_anew_is_written_on(application: Application) -> None:
    log = application.root / "daemon.log"
    application.write_config()
    application.run("ensure-daemon", "--daemon-log-path", str(log))
    log.rename(f"{log}.1")
    log.mkdir()
    hang_up(application)
    (event,) = application.events("log not reopened")
    assert event["data"]["path"] == str(log)
    assert '"log not reopened"' in Path(f"{log}.1").read_text()
    log.rmdir()
    hang_up(application)
    assert '"config reloaded"' in log.read_text()
