"""What other supervisors are asked, and how their answers are judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rollbridge.config.model import LegacyTakeoverConfig
from rollbridge.takeover.sighting import session_name
from rollbridge.takeover.stop_commands import (
    Outcome,
    StopCommand,
    is_inactive,
    is_pm2_running,
    is_stopped_app,
    is_stopped_by_supervisor,
    list_stop_commands,
    run_stop,
)


def test_supervisors_are_asked_before_commands_are_run() -> None:
    legacy = LegacyTakeoverConfig((), (), 1.0, (), ("a.service",), ("b",), ("c",), ("/etc/init.d/d stop",))
    commands = list_stop_commands(legacy)
    assert [command.text for command in commands] == [
        "systemctl stop a.service",
        "supervisorctl stop b",
        "pm2 stop c",
        "/etc/init.d/d stop",
    ]


@pytest.mark.parametrize(
    ("said", "is_stopped"),
    [
        ("inactive\n", True),
        ("failed\n", True),
        ("unknown\n", True),
        ("active\n", False),
        ("deactivating", False),
        ("", False),
    ],
)
def test_a_unit_is_stopped_when_systemd_says_so(said: str, is_stopped: bool) -> None:
    assert is_inactive(Outcome(3, said)) is is_stopped


@pytest.mark.parametrize(
    ("said", "is_stopped"),
    [
        ("old     STOPPED   Nov 21 02:00 AM\n", True),
        ("old:a   STOPPED   x\nold:b  EXITED  x\n", True),
        ("old     RUNNING   pid 12, uptime 0:00:02\n", False),
        ("old:a   STOPPED   x\nold:b  STOPPING  x\n", False),
        ("old: ERROR (no such process)\n", True),
        ("unix:///tmp/supervisor.sock no such file\n", True),
        ("unix:///tmp/supervisor.sock refused connection\n", True),
        ("", False),
    ],
)
def test_a_program_is_stopped_when_supervisord_says_so_or_is_not_there(said: str, is_stopped: bool) -> None:
    assert is_stopped_by_supervisor(Outcome(0, said)) is is_stopped


def test_an_app_is_stopped_when_pm2_lists_all_of_that_name_as_stopped() -> None:
    def listing(*states: str) -> str:
        return "note\n" + json.dumps(
            [{"name": "old", "pm_id": number, "pm2_env": {"status": state}} for number, state in enumerate(states)]
        )

    assert is_stopped_app(listing("stopped", "errored"), "old")
    assert not is_stopped_app(listing("stopped", "online"), "old")
    assert is_stopped_app(listing("stopped", "online"), "0")
    assert is_stopped_app(listing("online"), "other")
    assert is_stopped_app("[]", "old")
    assert not is_stopped_app("", "old")
    assert not is_stopped_app("[{", "old")


def test_a_command_that_fails_is_told_with_its_words() -> None:
    complaint = run_stop(StopCommand("command", ("/bin/sh", "-c", "echo no such service >&2; exit 5")))
    assert complaint == "`echo no such service >&2; exit 5` ended with exit code 5 (no such service)"
    assert run_stop(StopCommand("command", ("/bin/sh", "-c", "sleep 3 & true"))) == ""


def test_a_program_that_is_not_installed_is_told() -> None:
    assert "not installed" in run_stop(StopCommand("x", ("no-such-supervisor", "stop", "x")))


def test_pm2_is_not_started_to_be_asked(tmp_path: Path) -> None:
    assert not is_pm2_running({"PM2_HOME": str(tmp_path)})
    (tmp_path / "pm2.pid").write_text("1")
    assert not is_pm2_running({"PM2_HOME": str(tmp_path)})
    (tmp_path / "pm2.pid").write_text("x")
    assert not is_pm2_running({"PM2_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("SCREEN -dmS old python app.py", "old"),
        ("SCREEN -S old", "old"),
        ("SCREEN -L -dmS old sh", "old"),
        ("SCREEN", None),
        ("SCREEN sh -S old", None),
        ("screen -S old", None),
        ("vi SCREEN -S old", None),
        ("", None),
    ],
)
def test_the_name_of_a_screen_is_read_from_its_command_line(command: str, name: str | None) -> None:
    assert session_name(command) == name
