"""The files in examples/ for servers without systemd: the init script, the OpenRC service, the cron line."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.application import Application, Command, Result, copy_of
from tests.support.interpreters import for_everyone
from tests.support.processes import is_running, kill_and_wait
from tests.support.waiting import wait_until

EXAMPLES = Path(__file__).parent.parent / "examples"
INIT = EXAMPLES / "rollbridge.init"
OPENRC = EXAMPLES / "rollbridge.openrc"
CRON = EXAMPLES / "rollbridge.cron"


@pytest.mark.parametrize("script", [INIT, OPENRC], ids=lambda path: path.name)
@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_the_scripts_are_plain_shell(shell: str, script: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([program, "-n", str(script)], check=True, timeout=30)


def test_shellcheck_has_nothing_to_say_against_the_scripts() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    result = subprocess.run([shellcheck, INIT, OPENRC], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_the_init_script_has_a_header_as_lsb_wants_it() -> None:
    header = re.search(r"^### BEGIN INIT INFO\n(.*?)^### END INIT INFO$", INIT.read_text(), re.DOTALL | re.MULTILINE)
    assert header
    keys = dict(line.removeprefix("# ").split(":", 1) for line in header[1].splitlines())
    needed = {"Provides", "Required-Start", "Required-Stop", "Default-Start", "Default-Stop", "Short-Description"}
    assert set(keys) >= needed
    assert keys["Provides"].strip() == "ticket-server"
    assert not set(keys["Default-Start"].split()) & set(keys["Default-Stop"].split())


class Service:
    """The init script, its settings replaced by those of an application."""

    def __init__(self, application: Application, run_as: str = "") -> None:
        self.application = application
        self.log = application.root / "log" / "rollbridge.log"
        self.log.parent.mkdir()
        program = application.root / "rollbridge"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(application.command)} "$@"\n')
        program.chmod(0o755)
        settings = {
            "NAME": application.name,
            "ROLLBRIDGE": program,
            "CONFIG": application.config_path,
            "RUN_AS": run_as,
            "RUNTIME_DIR": application.runtime_dir,
            "LOG": self.log,
        }
        text = INIT.read_text()
        for name, value in settings.items():
            text, count = re.subn(rf"^{name}=\S*", f"{name}={value}", text, flags=re.MULTILINE)
            assert count == 1, name
        self.script = application.root / "init"
        self.script.write_text(text)
        application.config["state_path"] = str(application.root / "state" / "state.json")
        application.write_config()

    def __call__(self, *arguments: str, expect: int = 0) -> Result:
        command = Command(["/bin/sh", str(self.script), *arguments], self.application.env, Path("/"))
        self.application.commands.append(command)
        result = command.finish()
        assert result.code == expect, str(result)
        return result


@pytest.fixture
def service(application: Application) -> Service:
    return Service(application)


def test_the_init_script_starts_shows_reloads_restarts_and_stops(application: Application, service: Service) -> None:
    application.release("v1")
    assert "no daemon runs" in service("status", expect=3).stdout
    service("stop")
    service("start")
    pid = application.daemon_pid()
    assert "problem: " in service("status", expect=150).stdout
    application.deploy("v1")
    assert service("status").stdout.startswith("ok: release v1 serves")
    service("start")
    assert application.daemon_pid() == pid
    service.log.rename(f"{service.log}.1")
    service("reload")
    assert '"config reloaded"' in service.log.read_text()
    service("force-reload")
    # What was stopped by command comes back with the next start, as after a reboot.
    service("restart")
    assert application.daemon_pid() != pid
    assert application.serving()[0] == "v1"
    service("stop")
    application.assert_nothing_left()
    service("stop")
    service("try-restart")
    service("status", expect=3)
    service("start")
    assert application.serving()[0] == "v1"
    service("stop")
    application.assert_nothing_left()


def test_a_reload_of_a_broken_config_fails_and_says_why(application: Application, service: Service) -> None:
    service("start")
    good = application.config_path.read_text()
    application.config_path.write_text(good.replace("policy", "polici"))
    assert "polici" in service("reload", expect=2).stderr
    application.config_path.write_text(good)
    service("stop")


def test_starting_after_a_crash_takes_over_and_stopping_after_one_leaves_nothing(
    application: Application, service: Service
) -> None:
    application.release("v1")
    service("start")
    application.deploy("v1")
    before = application.serving()
    kill_and_wait(application.daemon_pid())
    service("status", expect=3)
    service("start")
    assert application.serving() == before
    kill_and_wait(application.daemon_pid())
    service("stop")
    assert not is_running(before[1])
    wait_until(lambda: not application.survivors(), lambda: f"all is gone; left: {application.survivors()}")


def test_called_wrongly_the_init_script_says_so(service: Service) -> None:
    assert "usage: " in service(expect=2).stderr
    assert "usage: " in service("begin", expect=2).stderr


def test_the_init_script_runs_the_application_as_its_own_user(application: Application) -> None:
    python = for_everyone()
    nobody = pwd.getpwnam("nobody")
    copy = copy_of(Path(application.command[-1]), application.root / "rollbridge.pyz")
    application.command = (python, "-I", str(copy))
    application.processes["web"]["command"][0] = python
    application.release("v1")
    service = Service(application, run_as="nobody")
    application.config["control"]["owner"] = "nobody"
    application.write_config()
    application.root.chmod(0o755)
    for path in (application.root, service.log.parent, *(application.root / "releases").rglob("*")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    service("start")
    application.deploy("v1")
    for pid in (application.daemon_pid(), application.serving()[1]):
        assert Path(f"/proc/{pid}").stat().st_uid == nobody.pw_uid
    assert application.runtime_dir.stat().st_uid == nobody.pw_uid
    service("status")
    service("reload")
    service("stop")
    application.assert_nothing_left()


# --- the cron line


def cron_command(application: Application, run: Callable[[str], str]) -> str:
    (line,) = [line for line in CRON.read_text().splitlines() if re.match(r"[*@\d]", line)]
    *when, user, command = line.split(None, 6)
    assert when == ["*"] * 5
    assert user == "ticket-server"
    assert "%" not in command  # a line break to cron
    return run(command)


def test_the_cron_line_brings_back_what_was_killed_and_is_silent_otherwise(application: Application) -> None:
    application.config["state_path"] = str(application.root / "state.json")
    application.release("v1")
    application.start("v1")
    before = application.serving()

    def fill_in(command: str) -> str:
        command = command.replace("/opt/rollbridge/rollbridge.pyz", shlex.join(application.command))
        return command.replace("/srv/ticket-server/rollbridge.toml", str(application.config_path))

    line = cron_command(application, fill_in)

    def minute() -> Result:
        command = Command(["/bin/sh", "-c", line], application.env, Path("/"))
        application.commands.append(command)
        return command.finish()

    assert minute() == Result(0, "", "")
    assert application.daemon is not None
    os.kill(application.daemon.pid, signal.SIGKILL)
    application.daemon.finish()
    healed = minute()
    assert healed.code == 0
    assert "daemon started" in healed.stdout
    assert application.serving() == before
    assert minute() == Result(0, "", "")
    application.shutdown()
    # What was shut down by command stays down.
    assert minute() == Result(0, "", "")
    wait_until(lambda: not application.daemons(), "no daemon")


def test_the_files_have_the_same_names_in_them() -> None:
    for path in (INIT, OPENRC, CRON):
        text = path.read_text()
        assert "/opt/rollbridge/rollbridge.pyz" in text
        assert "/srv/ticket-server/rollbridge.toml" in text
    for path in (INIT, OPENRC):
        assert "/run/rollbridge/ticket-server" in path.read_text()
