"""The config file is read again at each deploy, and adopted only when the new release is up."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.application import Application
from tests.support.ports import free_block
from tests.support.waiting import wait_until


def environment_of_web(application: Application) -> dict[str, str]:
    environment: dict[str, str] = json.loads(application.get("/env").body)
    return environment


def test_a_changed_environment_reaches_the_next_release(application: Application) -> None:
    application.processes["web"]["env"] = {"COLOUR": "blue"}
    application.release("v1")
    application.release("v2")
    application.start("v1")
    assert environment_of_web(application)["COLOUR"] == "blue"
    application.processes["web"]["env"] = {"COLOUR": "green"}
    application.write_config()
    application.deploy("v2")
    assert environment_of_web(application)["COLOUR"] == "green"


def test_a_changed_health_check_is_used_by_the_next_deploy(application: Application) -> None:
    application.release("v1")
    application.release("v2", ping_status=500)
    application.start("v1")
    application.processes["web"]["health"] = {"path": "/", "timeout": "5s"}
    application.write_config()
    application.deploy("v2")
    assert application.serving()[0] == "v2"


def test_a_changed_proxy_setting_applies_without_a_restart(application: Application) -> None:
    application.config["proxy"]["response_timeout"] = "0s"
    application.release("v1")
    application.release("v2")
    application.start("v1")
    application.config["proxy"]["response_timeout"] = "200ms"
    application.write_config()
    application.deploy("v2")
    gate = application.gate("slow")
    assert application.get(f"/gate?{gate}").status == 504


def test_a_config_is_not_adopted_by_a_deploy_that_fails(application: Application) -> None:
    application.processes["web"]["env"] = {"COLOUR": "blue"}
    application.release("v1")
    application.release("v2", exit_code=3)
    application.start("v1")
    application.processes["web"]["env"] = {"COLOUR": "green"}
    application.write_config()
    application.deploy("v2", expect=1)
    pid = application.serving()[1]
    application.get("/crash")
    wait_until(lambda: application.serving()[1] != pid, "v1 has been started again")
    assert environment_of_web(application)["COLOUR"] == "blue"


def more_replicas(application: Application) -> str:
    application.processes["jobs"]["replicas"] = 2
    return "processes.jobs.replicas"


def another_process(application: Application) -> str:
    application.processes["extra"] = application.worker()
    return "processes.extra"


def one_process_less(application: Application) -> str:
    del application.processes["jobs"]
    return "processes.jobs"


def another_policy(application: Application) -> str:
    application.processes["jobs"]["policy"] = "singleton"
    return "processes.jobs.policy"


def another_listener(application: Application) -> str:
    application.config["proxy"]["port"] = free_block(1)
    return "proxy.port"


def another_port_range(application: Application) -> str:
    first, last = application.web_ports
    application.processes["web"]["port"] = f"{first}-{last - 1}"
    return "processes.web.port"


def another_state_file(application: Application) -> str:
    application.config["state_path"] = str(application.root / "other.json")
    return "state_path"


CHANGES: list[Callable[[Application], str]] = [
    more_replicas,
    another_process,
    one_process_less,
    another_policy,
    another_listener,
    another_port_range,
    another_state_file,
]


def test_changes_that_need_a_restart_are_refused_and_named(application: Application) -> None:
    application.processes["jobs"] = application.worker()
    application.release("v1")
    application.release("v2")
    application.start("v1")
    before = application.serving()
    original = json.dumps(application.config)
    for change in CHANGES:
        setting = change(application)
        application.write_config()
        result = application.deploy("v2", expect=4)
        assert setting in result.stderr, f"{change.__name__}: {result}"
        assert application.serving() == before
        application.config = json.loads(original)
    application.write_config()
    application.deploy("v2")
    assert application.serving()[0] == "v2"


BROKEN_FILES = {
    "syntax": lambda good: good + b"\nport = ",
    "unknown key": lambda good: good.replace(b"health_timeout", b"healht_timeout"),
    "not UTF-8": lambda good: good + b"# \xff\n",
    "no processes": lambda good: good[: good.index(b"[processes")],
}


@pytest.mark.parametrize("kind", BROKEN_FILES)
def test_a_broken_file_fails_the_deploy_and_nothing_else(application: Application, kind: str) -> None:
    application.release("v1")
    application.release("v2")
    application.start("v1")
    before = application.serving()
    good = application.config_path.read_bytes()
    application.config_path.write_bytes(BROKEN_FILES[kind](good))
    result = application.deploy("v2", expect=2)
    assert "Traceback" not in result.stderr
    assert str(application.config_path) in result.stderr
    assert application.serving() == before
    application.config_path.write_bytes(good)
    application.deploy("v2")


def test_client_commands_reach_the_daemon_while_another_section_is_broken(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    with application.config_path.open("a") as file:
        file.write('\n[processes.broken]\npolicy = "no such policy"\nport = "x"\n')
    assert application.run("status", "--json").json["active_release_id"] == "v1"
    application.run("stop")
    assert application.get().status == 503
    application.shutdown()
