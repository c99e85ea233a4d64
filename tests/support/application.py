"""One application under rollbridge: its config, releases, daemon, commands, and the promise that nothing survives."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollbridge.daemon.state_format import encode_state
from tests.support.http import Response, fetch
from tests.support.ports import free_block
from tests.support.processes import MARK_VARIABLE, ProcessLine, is_running, marked, read_process, send
from tests.support.toml import to_toml
from tests.support.waiting import wait_until
from tests.support.websocket import WebSocket

APPS = Path(__file__).parent / "apps"
COMMAND_TIMEOUT_SECONDS = 60.0
WEB_PORTS = 8


@dataclass(frozen=True, slots=True)
class Result:
    """What a command answered."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    def __str__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.stdout}--- stderr\n{self.stderr}"


class Command:
    """A command that runs; its output goes to files, so that it never blocks."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, inherited: Sequence[int] = ()) -> None:
        self.argv = tuple(argv)
        self._files = tempfile.TemporaryDirectory(prefix="rbc-")
        self.stdout_path, self.stderr_path = Path(self._files.name) / "stdout", Path(self._files.name) / "stderr"
        with self.stdout_path.open("wb") as stdout, self.stderr_path.open("wb") as stderr:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=env,
                cwd=cwd,
                pass_fds=inherited,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def finish(self, timeout: float = COMMAND_TIMEOUT_SECONDS) -> Result:
        """Wait for the end; a command that hangs is killed and fails the test."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"{' '.join(self.argv)} did not end within {timeout:g} s\n{self.stdout}\n{self.stderr}"
            ) from None
        return Result(code, self.stdout, self.stderr)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True, slots=True)
class Gate:
    """A file that processes wait for: ``pass_gate`` of the test apps."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_reached(self) -> bool:
        return Path(f"{self.path}.waiting").exists()

    def wait_reached(self) -> None:
        wait_until(lambda: self.is_reached, f"somebody waits at gate {self.path.name}")

    def open(self) -> None:
        self.path.touch()


class Application:
    """A directory with a config file and releases, and every process that was ever started from it.

    The root is short, whatever the test is called: a Unix socket's path holds 107 bytes.
    """

    def __init__(self, command: Sequence[str], label: str = "test") -> None:
        self.command = tuple(command)  # how to run rollbridge
        self.label = label
        self.root = Path(tempfile.mkdtemp(prefix="rbt-"))
        self.name = self.root.name
        self.mark = uuid.uuid4().hex
        self.runtime_dir = self.root / "run"
        self.control_path = self.root / "control.sock"
        self.config_path = self.root / "rollbridge.toml"
        self.daemon_log = self.root / "daemon.log"
        self.journal_path = self.root / "journal"
        first = free_block(WEB_PORTS + 1)
        self.port, self.web_ports = first, (first + 1, first + WEB_PORTS)
        self.config: dict[str, Any] = self._default_config()
        self.env = self._environment()
        self.commands: list[Command] = []
        self.inherited: tuple[int, ...] = ()  # descriptors that commands are started with
        self.daemon: Command | None = None
        self._is_closed = False

    def _default_config(self) -> dict[str, Any]:
        return {
            "application": self.name,
            "runtime_dir": str(self.runtime_dir),
            "control": {"path": str(self.control_path)},
            "proxy": {
                "port": self.port,
                "health_timeout": "20s",
                "drain_timeout": "20s",
                "force_stop_timeout": "10s",
                "hold_timeout": "10s",
            },
            "processes": {"web": self.stub()},
        }

    def _environment(self) -> dict[str, str]:
        venv = str(Path(sys.executable).parent)
        return {
            "PATH": f"{venv}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.root),
            "LANG": "C.UTF-8",
            "JOURNAL": str(self.journal_path),
            MARK_VARIABLE: self.mark,
        }

    # --- what the config says

    def stub(self, **settings: Any) -> dict[str, Any]:
        """A proxied process table that runs the stub app of the release directory."""
        return {
            "policy": "proxied",
            "command": [sys.executable, "-S", "-E", "app.py", "{{port}}", "{{proxy.upstream_host}}"],
            "port": f"{self.web_ports[0]}-{self.web_ports[1]}",
            "restart_delay": "50ms",
            **settings,
        }

    def gunicorn(self, **settings: Any) -> dict[str, Any]:
        bind = "{{proxy.upstream_host}}:{{port}}"
        command = [sys.executable, "-m", "gunicorn", "--bind", bind, "--threads", "4", "--workers", "1", "app:app"]
        return self.stub(command=command, **settings)

    def uvicorn(self, **settings: Any) -> dict[str, Any]:
        command = [sys.executable, "-m", "uvicorn", "--host", "{{proxy.upstream_host}}", "--port", "{{port}}"]
        return self.stub(command=[*command, "--log-level", "warning", "app:app"], **settings)

    def worker(self, policy: str = "companion", **settings: Any) -> dict[str, Any]:
        """A process table that runs the journal-keeping worker."""
        command = [sys.executable, "-S", "-E", str(APPS / "worker.py")]
        return {"policy": policy, "command": command, "restart_delay": "50ms", **settings}

    @property
    def processes(self) -> dict[str, Any]:
        processes: dict[str, Any] = self.config["processes"]
        return processes

    def write_config(self) -> None:
        self.config_path.write_text(to_toml(self.config))

    def release(self, name: str, app: str = "stub", **behaviour: Any) -> Path:
        """Make (or change) the release directory ``name`` with ``app`` as its ``app.py``."""
        path = self.root / "releases" / name
        path.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(APPS / f"{app}.py", path / "app.py")
        plain = {key: str(value) if isinstance(value, Gate | Path) else value for key, value in behaviour.items()}
        (path / "behaviour.json").write_text(json.dumps(plain))
        return path

    def gate(self, name: str) -> Gate:
        return Gate(self.root / f"gate-{name}")

    # --- commands

    def spawn(self, *arguments: str, command: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Command:
        """Start ``rollbridge ARGUMENTS --config …`` and return at once."""
        if not self.config_path.exists():
            self.write_config()
        name, *rest = arguments
        argv = [*(command or self.command), name, "--config", str(self.config_path), *rest]
        started = Command(argv, {**self.env, **(env or {})}, self.root, self.inherited)
        self.commands.append(started)
        return started

    def run(
        self,
        *arguments: str,
        expect: int | None = 0,
        timeout: float = COMMAND_TIMEOUT_SECONDS,
        command: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a command to its end; ``expect`` is its exit code, None: any."""
        result = self.spawn(*arguments, command=command, env=env).finish(timeout)
        if expect is not None and result.code != expect:
            raise AssertionError(f"rollbridge {' '.join(arguments)}: expected exit {expect}, got {result}")
        return result

    def deploy_arguments(self, release: str | Path, *more: str) -> tuple[str, ...]:
        path = release if isinstance(release, Path) else self.root / "releases" / release
        return ("deploy", "--release-path", str(path), "--release-id", path.name, *more)

    def deploy(
        self, release: str | Path, *more: str, expect: int | None = 0, timeout: float = COMMAND_TIMEOUT_SECONDS
    ) -> Result:
        return self.run(*self.deploy_arguments(release, *more), expect=expect, timeout=timeout)

    def start_daemon(self, *arguments: str, env: Mapping[str, str] | None = None) -> int:
        """Start a foreground daemon as our child, wait until it answers, return its pid."""
        daemon = self.spawn("daemon", *arguments, env=env)
        self.daemon = daemon

        def answers() -> bool:
            if not daemon.is_running:
                raise AssertionError(f"the daemon ended at its start: {daemon.finish()}")
            return self.daemon_pid() == daemon.pid

        wait_until(answers, lambda: f"the daemon answers; its output:\n{daemon.stderr}")
        return daemon.pid

    def start(self, release: str | None = None) -> int:
        """Write the config, start a daemon, deploy ``release`` when one is named; return the daemon's pid."""
        self.write_config()
        pid = self.start_daemon()
        if release is not None:
            self.deploy(release)
        return pid

    def wait_daemon_exit(self, timeout: float = 30.0) -> Result:
        assert self.daemon is not None
        return self.daemon.finish(timeout)

    # --- what is going on

    @property
    def state_path(self) -> Path:
        return Path(self.config.get("state_path", self.runtime_dir / "state.json"))

    def state(self) -> dict[str, Any]:
        """What the state file says at this moment."""
        state: dict[str, Any] = json.loads(self.state_path.read_bytes())
        return state

    def forge_state(self, forge: Callable[[dict[str, Any]], object]) -> None:
        """Let ``forge`` change what the state file says; it is sealed again."""
        state = self.state()
        forge(state)
        self.state_path.write_bytes(encode_state(state))

    def forge_in_state(self, old: str, new: str) -> None:
        """Replace ``old`` by ``new`` wherever it stands in the state file; it is sealed again."""
        text = self.state_path.read_text()
        assert old in text
        self.state_path.write_bytes(encode_state(json.loads(text.replace(old, new))))

    def request(self, message: Mapping[str, Any], timeout: float = 30.0) -> dict[str, Any]:
        """One raw request on the control socket; the final answer. OSError when there is no daemon."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(self.control_path))
            connection.sendall(json.dumps(message).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    answer: dict[str, Any] = json.loads(line)
                    if "status" in answer:
                        return answer
        raise ConnectionResetError("the daemon closed the control connection without an answer")

    def daemon_pid(self) -> int:
        pid: int = self.request({"command": "ping"})["pid"]
        return pid

    def status(self) -> dict[str, Any]:
        result: dict[str, Any] = self.request({"command": "status"})["result"]
        return result

    def events(self, message: str | None = None) -> list[dict[str, Any]]:
        """All events; with ``message`` only those that contain it."""
        events: list[dict[str, Any]] = self.request({"command": "events", "limit": 1000})["events"]
        return [event for event in events if message is None or message.lower() in event["message"].lower()]

    def logged(self, process: str, lines: int = 1000) -> list[str]:
        answer = self.request({"command": "logs", "process": process, "lines": lines})
        return [entry["line"] for entry in answer["logs"]]

    def release_status(self, release_id: str) -> dict[str, Any]:
        """The newest entry of that id; KeyError when there is none."""
        found = [release for release in self.status()["releases"] if release["release_id"] == release_id]
        if not found:
            raise KeyError(release_id)
        entry: dict[str, Any] = max(found, key=lambda release: release.get("activated_at") or "")
        return entry

    def state_of(self, release_id: str) -> str:
        state: str = self.release_status(release_id)["state"]
        return state

    def all_process_statuses(self) -> list[dict[str, Any]]:
        status = self.status()
        entries = [process for release in status["releases"] for process in release["processes"]]
        return [*entries, *status["services"], *status["singletons"]]

    def process_statuses(self, process_id: str, release_id: str | None = None) -> list[dict[str, Any]]:
        """Entries of every replica of ``process_id``, of one release or of all."""
        entries = self.all_process_statuses() if release_id is None else self.release_status(release_id)["processes"]
        return [process for process in entries if process["process_id"] == process_id]

    def process(self, process_id: str, release_id: str | None = None) -> dict[str, Any]:
        """The one entry of ``process_id`` that has not ended; LookupError unless there is exactly one."""
        entries = [
            entry
            for entry in self.process_statuses(process_id, release_id)
            if entry["state"] not in ("stopped", "failed")
        ]
        if len(entries) != 1:
            raise LookupError(f"{len(entries)} living entries of {process_id}")
        return entries[0]

    def pid_of(self, process_id: str, release_id: str | None = None) -> int:
        pid: int = self.process(process_id, release_id)["pid"]
        return pid

    def journal(self, event: str | None = None, process: str | None = None) -> list[dict[str, Any]]:
        """What the workers noted, in order."""
        if not self.journal_path.exists():
            return []
        entries = [json.loads(line) for line in self.journal_path.read_text().splitlines()]
        return [
            entry
            for entry in entries
            if event in (None, entry["event"]) and (process is None or entry.get("process") == process)
        ]

    # --- traffic

    def get(self, path: str = "/", **options: Any) -> Response:
        return fetch(self.port, path, **options)

    def serving(self) -> tuple[str, int]:
        """Release and pid that answer a request through the proxy."""
        response = self.get()
        if response.status != 200:
            raise LookupError(f"{response.status}: {response.text[:200]}")
        answer = json.loads(response.body)
        return answer["release"], answer["pid"]

    def websocket(self, path: str = "/ws") -> WebSocket:
        return WebSocket(self.port, path)

    def proxy_workers(self) -> list[ProcessLine]:
        return [line for line in marked(self.mark) if "_proxy-worker" in line.command]

    def daemons(self) -> list[ProcessLine]:
        """Every living daemon process of this application."""
        return [
            line
            for line in marked(self.mark)
            if str(self.config_path) in line.command and " daemon " in f"{line.command} "
        ]

    # --- the end

    def survivors(self) -> list[ProcessLine]:
        """Processes that carry the mark, except commands that this object started and still tracks."""
        tracked = {command.pid for command in self.commands if command.is_running}
        return [line for line in marked(self.mark) if line.pid not in tracked]

    def shutdown(self, timeout: float = 30.0) -> Result:
        """``rollbridge shutdown``, and proof that nothing is left of the application."""
        result = self.run("shutdown", timeout=timeout)
        if self.daemon is not None:
            self.daemon.finish(timeout)
        self.assert_nothing_left()
        return result

    def assert_nothing_left(self) -> None:
        wait_until(
            lambda: not self.survivors(),
            lambda: "all processes are gone; left: " + "; ".join(map(str, self.survivors())),
            timeout=5.0,
        )
        assert not self.control_path.exists(), "the control socket is still there"

    def close(self) -> list[ProcessLine]:
        """End everything and delete the directory; returns who had to be killed though the daemon had shut down."""
        if self._is_closed:
            return []
        self._is_closed = True
        for path in self.root.glob("gate-*.waiting"):
            path.with_suffix("").touch()
        was_clean = self._shut_down_quietly()
        for command in self.commands:
            if command.is_running:
                command.kill()
        survivors = self.survivors() if was_clean else []
        self._kill_marked()
        return survivors

    def remove(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def report(self, lines: int = 60) -> str:
        """The daemon's last log lines, for the report of a failed test."""
        logs = [path for path in (self.daemon.stderr_path if self.daemon else None, *self._log_files()) if path]
        parts = []
        for path in logs:
            with contextlib.suppress(OSError):
                tail = "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
                parts.append(f"--- {path}\n{tail}")
        return "\n".join(parts)

    def _log_files(self) -> list[Path]:
        return [path for path in self.runtime_dir.glob("*.log") if stat.S_ISREG(path.stat().st_mode)]

    def _shut_down_quietly(self) -> bool:
        """Try a regular shutdown; True when the daemon, if there was one, ended by itself."""
        daemons = [line.pid for line in self.daemons()]
        if self.daemon is not None and self.daemon.is_running and self.daemon.pid not in daemons:
            daemons.append(self.daemon.pid)
        for pid in daemons:
            send(pid, signal.SIGCONT)
            send(pid, signal.SIGTERM)
        deadline = time.monotonic() + 15.0
        while any(self._is_alive(pid) for pid in daemons):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        # A daemon that died without the test's shutdown cannot be blamed for what it left.
        return bool(daemons)

    def _is_alive(self, pid: int) -> bool:
        if self.daemon is not None and pid == self.daemon.pid:
            return self.daemon.is_running
        return is_running(pid)

    def _kill_marked(self) -> None:
        deadline = time.monotonic() + 5.0
        while (lines := marked(self.mark)) and time.monotonic() < deadline:
            for line in lines:
                send(line.pid, signal.SIGKILL)
            time.sleep(0.01)


def describe_pid(pid: int) -> str:
    return str(read_process(pid) or f"{pid}: gone")


def python_command(pyz: Path) -> tuple[str, ...]:
    """How tests run a ``.pyz``: with this interpreter, and isolated, so that no other rollbridge is imported."""
    return (sys.executable, "-I", str(pyz))


def copy_of(pyz: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(pyz, target)
    os.chmod(target, 0o755)  # noqa: PTH101
    return target
