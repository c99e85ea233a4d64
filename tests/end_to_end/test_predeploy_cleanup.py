"""``predeploy-cleanup`` against real supervisors: screen, supervisord, pm2, shells that start again what dies."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.application import Application, Result, python_command
from tests.support.builds import changed
from tests.support.ports import listening_stranger
from tests.support.processes import MARK_VARIABLE, is_running, marked, send
from tests.support.waiting import wait_until

LISTEN = "import socket,sys,time; s=socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(1000)"


class Old:
    """What is to be replaced: every process carries ``token`` in its command line and the mark in its environment."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.token = f"old-{application.name}-{application.mark[:12]}"
        self.env = {**os.environ, MARK_VARIABLE: application.mark, "HOME": str(application.root)}
        self.config: dict[str, Any] = {"force_stop_timeout": "1s"}
        application.config["legacy_takeover"] = self.config

    def meant(self, *includes: str) -> None:
        self.config["processes"] = [{"name": "old web", "includes": list(includes)}]

    def shell(self, script: str) -> subprocess.Popen[bytes]:
        """Run ``script`` with the token as its first argument, in a session of its own."""
        argv = ["/bin/sh", "-c", script, self.token]
        return subprocess.Popen(argv, env=self.env, start_new_session=True, stdin=subprocess.DEVNULL)

    def listener(self) -> str:
        """A command that listens on the proxy's port."""
        return f'{sys.executable} -c "{LISTEN}" {self.application.port} {self.token}'

    def wait_for_port(self) -> None:
        address = ("127.0.0.1", self.application.port)
        wait_until(lambda: socket.create_connection(address, timeout=1).close() is None, "the old application listens")

    def living(self) -> list[int]:
        return [line.pid for line in marked(self.application.mark) if self.token in line.command]

    def clean(self, *more: str, expect: int = 0) -> Result:
        self.application.write_config()
        return self.application.run("predeploy-cleanup", *more, expect=expect)


@pytest.fixture
def old(application: Application) -> Iterator[Old]:
    found = Old(application)
    yield found
    for line in marked(application.mark):
        send(line.pid, signal.SIGKILL)


def test_a_tree_is_shown_stopped_and_its_port_free_for_the_first_deploy(old: Old) -> None:
    old.meant(old.token, "while")
    # The second asks for more than SIGTERM.
    parent = old.shell(f"{old.listener()} & (trap '' TERM; while :; do sleep 0.2; done) & wait")
    old.wait_for_port()
    shown = old.clean("--dry-run")
    tree = shown.stdout.splitlines()
    assert tree[0] == "would stop:" and re.match(rf'  {parent.pid}  "old web": its command line: /bin/sh', tree[1])
    assert f"    {old.living()[1]}  child of {parent.pid}: " in shown.stdout
    assert all(len(line) <= 80 for line in tree)
    assert is_running(parent.pid)
    assert {one["pid"] for one in old.clean("--dry-run", "--json").json["stop"]} >= set(old.living())

    old.application.release("r1")
    result = old.clean("--release-path", str(old.application.root / "releases" / "r1"))
    assert "stopped 4 process(es)" in result.stdout or "stopped 3 process(es)" in result.stdout
    parent.wait()
    assert old.living() == []
    old.application.deploy("r1", "--ensure-daemon")
    assert "nothing to do: release r1 is active" in old.clean().stdout
    old.application.run("stop")
    assert old.clean().code == 0  # the daemon has the port by now
    old.application.shutdown()


def test_what_must_not_be_touched_is_not(old: Old) -> None:
    """A deploy script with the text in its own command line, a daemon, what it manages: all match."""
    old.application.release(f"r-{old.token}")
    old.meant(old.application.name)
    pid = old.application.start(f"r-{old.token}")
    old.application.run("stop")
    victim = subprocess.Popen(["sleep", "1000"], executable=shutil.which("sleep"), env=old.env)
    victim_by_name = old.shell(f": {old.application.name}; sleep 1000 & wait")
    command = " ".join([*old.application.command, "predeploy-cleanup", "-c", str(old.application.config_path)])
    script = subprocess.run(
        ["/bin/sh", "-c", f"{command}; code=$?; exit $code # {old.application.name}"],
        env=old.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert script.returncode == 0, script.stderr
    assert victim_by_name.wait() == -signal.SIGTERM
    assert old.application.daemon_pid() == pid and old.application.proxy_workers()
    assert victim.poll() is None  # not in the text
    victim.kill()
    victim.wait()
    old.application.shutdown()


def test_a_shell_that_starts_it_again_is_reported_and_stopped_first_when_it_is_meant(old: Old) -> None:
    old.meant(old.token, "sleep-a-lot")
    script = old.application.root / "sleep-a-lot"
    script.write_text("#!/bin/sh\nsleep 1000\n")
    script.chmod(0o755)
    loop = old.shell(f'while :; do {script} "$0"; done')
    wait_until(lambda: len(old.living()) >= 2, "the loop has started it")
    old.meant(f"{script} {old.token}")
    result = old.clean(expect=1)
    assert "stopped, and started again" in result.stderr
    assert f"by pid {loop.pid} (/bin/sh -c while" in result.stderr
    assert "Do not deploy yet" in result.stderr
    old.meant(old.token)
    assert "stopped" in old.clean().stdout
    assert loop.wait() == -signal.SIGTERM
    assert old.living() == []


def test_a_pid_file_is_followed_unless_it_is_stale(old: Old) -> None:
    process = old.shell("sleep 1000 & wait")
    stranger = subprocess.Popen(["sleep", "1000"], env=old.env)
    try:
        (old.application.root / "old.pid").write_text(f"{process.pid}\n")
        stale = old.application.root / "stale.pid"
        stale.write_text(f"{stranger.pid}\n")
        os.utime(stale, (1, 1))
        old.config["pid_files"] = ["old.pid", "stale.pid", "missing.pid"]
        assert "another process's by now" in " ".join(old.clean("--dry-run").stdout.split())
        old.clean()
        assert process.wait() == -signal.SIGTERM
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_who_has_the_port_and_is_not_meant_keeps_the_deploy_out(old: Old) -> None:
    with listening_stranger(old.application.port):
        assert f"in use by pid {os.getpid()}" in old.clean(expect=1).stderr


def test_what_cannot_be_right_is_refused_before_anything_is_stopped(old: Old) -> None:
    process = old.shell("sleep 1000 & wait")
    old.meant(old.token)
    missing = old.clean("--release-path", "/no/such/release", expect=1)
    assert "is not a directory" in missing.stderr and "Nothing was stopped" in missing.stderr
    (old.application.root / "own.pid").write_text(f"{os.getpid()}\n")
    old.config["pid_files"] = ["own.pid"]
    assert "runs inside of it" in old.clean(expect=4).stderr
    old.config["pid_files"] = []
    old.config["commands"] = ["echo the old one is busy; exit 3"]
    assert "the old one is busy" in old.clean(expect=1).stderr
    assert process.poll() is None
    process.kill()
    process.wait()


def test_a_foreground_daemon_with_other_settings_is_for_its_own_supervisor_to_restart(old: Old) -> None:
    pid = old.application.start()
    old.application.config["proxy"]["port"] -= 1
    result = old.clean(expect=4)
    assert "proxy.port" in result.stderr and "systemctl restart" in result.stderr
    assert old.application.daemon_pid() == pid
    old.application.config["proxy"]["port"] += 1
    old.application.write_config()
    old.application.shutdown()


def test_a_detached_daemon_with_other_settings_is_started_anew(old: Old) -> None:
    application = old.application
    application.run("ensure-daemon")
    pid = application.daemon_pid()
    # The old application has the port that the daemon is to have.
    application.config["proxy"]["port"] = application.port = application.web_ports[1]
    application.processes["web"]["port"] = f"{application.web_ports[0]}-{application.web_ports[1] - 1}"
    old.meant(old.token)
    process = old.shell(f"{old.listener()} & wait")
    old.wait_for_port()
    shown = old.clean("--dry-run", "--json").json
    assert "start it anew" in shown["daemon"] and "proxy.port" in shown["daemon"]
    assert application.daemon_pid() == pid
    result = old.clean()
    assert "was shut down, to be started anew" in result.stderr and "was started anew" in result.stderr
    process.wait()
    assert application.daemon_pid() != pid
    application.release("v1")
    application.deploy("v1")
    assert application.serving()[0] == "v1"
    application.shutdown()


def test_a_daemon_of_another_version_is_upgraded(old: Old, pyz: Path) -> None:
    application = old.application
    pid = application.start()
    other = changed(pyz, application.root / "other.pyz", {"another": "build"})
    application.command = python_command(other)
    assert "would upgrade it" in old.clean("--dry-run").stdout
    assert "was upgraded" in old.clean().stderr
    assert application.daemon_pid() == pid
    assert "upgraded" not in old.clean().stderr
    application.shutdown()


def test_what_an_earlier_daemon_left_is_taken_over_when_it_serves(old: Old) -> None:
    old.application.release("r1")
    pid = old.application.start("r1")
    web = old.application.pid_of("web")
    os.kill(pid, signal.SIGKILL)
    old.application.wait_daemon_exit()
    assert "takes over what runs" in old.clean().stdout
    assert is_running(web)


@pytest.mark.skipif(shutil.which("screen") is None, reason="GNU screen is not installed")
def test_a_screen_session_is_ended_with_all_its_windows(old: Old) -> None:
    screens = old.application.root / ".screen"
    screens.mkdir(mode=0o700)
    env = {**old.env, "SCREENDIR": str(screens)}
    script = f"sleep 1000 & {old.listener()}"
    subprocess.run(["screen", "-dmS", old.token, "/bin/sh", "-c", script], env=env, check=True, timeout=20)
    old.wait_for_port()
    old.config["screens"] = [old.token]
    servers = [line for line in marked(old.application.mark) if line.command.startswith("SCREEN")]
    assert f'{servers[0].pid}  screen "{old.token}"' in old.clean("--dry-run").stdout
    old.clean()
    assert old.living() == []
    assert not is_running(servers[0].pid)


SUPERVISORD = shutil.which("supervisord", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


@pytest.mark.skipif(SUPERVISORD is None, reason="supervisord is not installed")
def test_a_program_of_supervisord_is_stopped_by_supervisord(old: Old) -> None:
    assert SUPERVISORD is not None
    root = old.application.root
    (root / "supervisord.conf").write_text(
        f"[supervisord]\nlogfile={root}/s.log\npidfile={root}/s.pid\nchildlogdir={root}\n"
        f"[unix_http_server]\nfile={root}/s.sock\n[supervisorctl]\nserverurl=unix://{root}/s.sock\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        f'[program:{old.token}]\ncommand=/bin/sh -c "exec sleep 1000" {old.token}\nstartsecs=0\n'
    )
    supervisord = subprocess.Popen(
        [SUPERVISORD, "-n", "-c", str(root / "supervisord.conf")], env=old.env, stdout=subprocess.DEVNULL
    )
    old.application.env["PATH"] = f"{Path(SUPERVISORD).parent}:{old.application.env['PATH']}"
    try:
        program = wait_until(
            lambda: [line.pid for line in marked(old.application.mark) if line.command == "sleep 1000"], "it runs"
        )[0]
        # First without asking supervisord: it starts it again, and is named.
        old.config["pid_files"] = ["program.pid"]
        (root / "program.pid").write_text(str(program))
        assert f"by supervisord (pid {supervisord.pid})" in old.clean(expect=1).stderr
        del old.config["pid_files"]
        old.config["supervisord_programs"] = [old.token]
        result = old.clean()
        assert f"ran supervisorctl stop {old.token}" in result.stdout
        assert not [line for line in marked(old.application.mark) if line.command == "sleep 1000"]
        assert supervisord.poll() is None
        assert old.clean().code == 0  # once more: it is stopped already
    finally:
        supervisord.terminate()
        supervisord.wait(20)


@pytest.mark.skipif(shutil.which("pm2") is None, reason="pm2 is not installed")
def test_an_app_of_pm2_is_stopped_by_pm2(old: Old) -> None:
    root = old.application.root
    env = {**old.env, "PM2_HOME": str(root / "pm2")}
    old.application.env.update({"PM2_HOME": env["PM2_HOME"], "PATH": os.environ["PATH"]})
    (root / "app.js").write_text("setInterval(() => {}, 1000)\n")
    old.config["pm2_apps"] = [old.token]
    assert old.clean().code == 0  # and no pm2 was started to be asked
    assert not (root / "pm2" / "pm2.pid").exists()
    try:
        subprocess.run(
            ["pm2", "start", str(root / "app.js"), "--name", old.token], env=env, check=True, capture_output=True
        )
        answer = subprocess.run(["pm2", "pid", old.token], env=env, check=True, capture_output=True)
        pids = [int(word) for word in answer.stdout.split()]
        assert pids and is_running(pids[0])
        assert f"ran pm2 stop {old.token}" in old.clean().stdout
        assert not any(is_running(pid) for pid in pids)
    finally:
        subprocess.run(["pm2", "kill"], env=env, capture_output=True, check=False)
