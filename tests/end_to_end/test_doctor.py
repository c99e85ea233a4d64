"""``doctor`` on this machine: what it finds is there, what it says helps, and it leaves all as it was."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

from tests.support.application import Application


def findings(application: Application, *options: str, expect: int) -> dict[str, list[dict[str, Any]]]:
    """Run it and return what is not in order, by check."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in application.run("doctor", "--json", *options, expect=expect).json["findings"]:
        assert bool(one["fix"]) == (one["level"] != "ok"), one
        if one["level"] == "problem":
            found.setdefault(one["check"], []).append(one)
    return found


def everything_below(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*"))


def test_a_machine_in_order_has_no_problem_before_and_while_a_release_runs(application: Application) -> None:
    release = application.release("r1")
    application.write_config()
    before = everything_below(application.root)
    assert findings(application, "--release-path", str(release), expect=0) == {}
    assert everything_below(application.root) == before
    application.start("r1")
    assert findings(application, "--release-path", str(release), expect=0) == {}
    text = application.run("doctor").stdout
    assert f"the daemon answers (pid {application.daemon_pid()})" in text
    assert text.splitlines()[-1].startswith("0 problems, ")
    assert max(len(line) for line in text.splitlines() if str(application.root) not in line) <= 80


def test_who_holds_the_port_is_named(application: Application) -> None:
    with socket.create_server(("127.0.0.1", application.port)):
        (finding,) = findings(application, expect=1)["port"]
    assert f"in use by pid {os.getpid()}" in finding["message"]


def test_a_range_without_a_free_port_is_a_problem(application: Application) -> None:
    application.processes["web"]["port"] = application.web_ports[0]
    with socket.create_server(("127.0.0.1", application.web_ports[0])):
        (finding,) = findings(application, expect=1)["port"]
    assert finding["message"].startswith("processes.web.port: too few free ports")


def test_what_a_killed_daemon_left_is_an_orphan(application: Application) -> None:
    application.release("r1")
    application.start("r1")
    web = application.pid_of("web")
    assert application.daemon is not None
    application.daemon.kill()
    found = findings(application, expect=1)
    assert f"(pid {web})" in found["orphans"][0]["message"]
    assert "port" not in found, "its own proxy worker is no stranger on the port"
    assert "recover --heal" in found["orphans"][0]["fix"]
    assert application.run("recover", "--force").code == 0


def test_a_command_a_directory_and_a_release_that_are_not_there_are_problems(application: Application) -> None:
    release = application.release("r1")
    application.config["processes"]["worker"] = {"command": "exec no-such-program --now"}
    application.config["processes"]["other"] = {"command": ["./tool"], "cwd": "{{release_path}}/missing"}
    application.config["processes"]["third"] = {"command": ["./tool"]}
    found = findings(application, "--release-path", str(release), expect=1)
    messages = [one["message"] for one in found["commands"]]
    assert messages == [
        "processes.worker.command: no-such-program is not an executable that can be found",
        f"processes.other.cwd: {release}/missing is not a directory",
        "processes.third.command: ./tool is not an executable that can be found",
    ]
    # Without a release nobody can tell what lies in one.
    assert len(findings(application, expect=1)["commands"]) == 1
    assert "release" in findings(application, "--release-path", str(release / "missing"), expect=1)


def test_a_placeholder_without_a_value_is_a_problem(application: Application) -> None:
    application.processes["web"]["env"] = {"KEY": "{{env.NOT_SET_ANYWHERE}}"}
    found = findings(application, expect=1)
    problems = [one for check in ("templates", "config") for one in found.get(check, [])]
    assert "NOT_SET_ANYWHERE" in problems[0]["message"]


def test_systemd_that_kills_before_a_worker_may_have_ended_is_a_problem(application: Application) -> None:
    application.config["processes"]["worker"] = application.worker(graceful_stop="10m")
    unit = application.root / "shop.service"
    unit.write_text("[Service]\nType=simple\nKillMode=process\nTimeoutStopSec=90s\n")
    (finding,) = findings(application, "--unit", str(unit), expect=1)["outer timeouts"]
    assert "TimeoutStopSec=90s" in finding["message"]
    drop_in = application.root / "shop.service.d"
    drop_in.mkdir()
    (drop_in / "time.conf").write_text("[Service]\nTimeoutStopSec=15min\n")
    assert findings(application, "--unit", str(unit), expect=0) == {}


def test_a_broken_config_is_listed_and_nothing_else_is_looked_at(application: Application) -> None:
    application.config["control"]["group"] = "no-such-group"
    assert "no group no-such-group" in findings(application, expect=1)["users"][0]["message"]
    application.config_path.write_text("[proxy]\nport = 80800\n")
    assert set(findings(application, expect=1)) == {"config"}


def test_an_account_that_is_missing_and_a_limit_nothing_keeps_are_told(application: Application) -> None:
    application.processes["web"].update({"user": "no-such-user", "cgroup": True, "pids_max": 100})
    (finding,) = findings(application, expect=1)["users"]
    assert finding["message"] == "processes.web.user: there is no user no-such-user on this machine"
    assert finding["fix"] == "run useradd --system no-such-user, or name another"
    told = application.run("doctor", "--json", expect=1).json["findings"]
    (group,) = [one for one in told if one["check"] == "control groups"]
    assert (group["level"], bool(group["fix"])) in (("ok", False), ("warning", True))
    assert "web" in group["message"] or "Delegate=yes" in group["fix"]
