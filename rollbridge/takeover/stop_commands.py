"""Asks other supervisors to stop what they run, and believes the outcome, not the exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rollbridge.config.model import LegacyTakeoverConfig

# systemd's own stop timeout is 90 s; a supervisor that was not asked properly would wait for ever.
COMMAND_SECONDS: Final = 120.0
_SHOWN_BYTES: Final = 2000
_STOPPED_BY_SUPERVISOR: Final = ("STOPPED", "EXITED", "FATAL")


@dataclass(frozen=True, slots=True)
class StopCommand:
    """One request to another supervisor. ``check`` asks how it ended; it is None where only the exit code can tell."""

    what: str
    argv: tuple[str, ...]
    check: tuple[str, ...] | None = None
    is_stopped: Callable[[Outcome], bool] | None = None

    @property
    def text(self) -> str:
        return self.argv[2] if self.argv[:2] == ("/bin/sh", "-c") else " ".join(self.argv)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: ``code`` is negative for a signal, None when it took too long."""

    code: int | None
    output: str


def list_stop_commands(legacy: LegacyTakeoverConfig) -> list[StopCommand]:
    """Return what is to be run, in its order: supervisors first, so that what ends is not started again."""
    commands = [
        StopCommand(f"systemd unit {unit}", ("systemctl", "stop", unit), ("systemctl", "is-active", unit), is_inactive)
        for unit in legacy.systemd_units
    ]
    commands += [
        StopCommand(
            f"supervisord program {program}",
            ("supervisorctl", "stop", program),
            ("supervisorctl", "status", program),
            is_stopped_by_supervisor,
        )
        for program in legacy.supervisord_programs
    ]
    commands += [
        StopCommand(f"pm2 app {app}", ("pm2", "stop", app), ("pm2", "jlist"), _app_check(app))
        for app in legacy.pm2_apps
    ]
    return commands + [StopCommand("command", ("/bin/sh", "-c", command)) for command in legacy.commands]


def is_inactive(outcome: Outcome) -> bool:
    """Judge ``systemctl is-active``; a unit that systemd does not know runs nothing."""
    return outcome.output.strip() in ("inactive", "failed", "unknown")


def is_stopped_by_supervisor(outcome: Outcome) -> bool:
    """Judge ``supervisorctl status``: a line for each process, its state the second word."""
    lines = [line.split() for line in outcome.output.splitlines() if line.strip()]
    if any("refused" in line or "no such file" in " ".join(line) for line in lines):
        return True  # no supervisord runs
    states = [words[1] for words in lines if len(words) > 1]
    if any("no such" in " ".join(words) for words in lines):
        return True
    return bool(states) and all(state in _STOPPED_BY_SUPERVISOR for state in states)


def _app_check(app: str) -> Callable[[Outcome], bool]:
    return lambda outcome: is_stopped_app(outcome.output, app)


def is_stopped_app(listing: str, app: str) -> bool:
    """Judge ``pm2 jlist``: every app of that name, or with that number, is stopped; so is one that is not there."""
    start = listing.find("[{")  # notes of pm2 may stand before
    try:
        apps = json.loads(listing[start:]) if start >= 0 else json.loads("[]") if "[]" in listing else None
    except ValueError:
        return False
    if not isinstance(apps, list):
        return False
    states = [
        one["pm2_env"].get("status")
        for one in apps
        if isinstance(one, dict)
        and isinstance(one.get("pm2_env"), dict)
        and app in (one.get("name"), str(one.get("pm_id")))
    ]
    return all(state in ("stopped", "errored") for state in states)


def is_pm2_running(environ: Mapping[str, str]) -> bool:
    """Whether pm2's own daemon runs; ``pm2 stop`` would start one."""
    home = environ.get("PM2_HOME") or str(Path(environ.get("HOME", "/root"), ".pm2"))
    try:
        pid = int(Path(home, "pm2.pid").read_text(encoding="ascii").strip())
        return b"God Daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False


def run_stop(command: StopCommand) -> str:
    """Run ``command``; return why it did not stop what it should, empty when it did."""
    program = command.argv[0]
    if shutil.which(program) is None:
        return f"{program} is not installed, or not in PATH ({os.environ.get('PATH', '')}): add its directory"
    if program == "pm2" and not is_pm2_running(os.environ):
        return ""
    outcome = _run(command.argv)
    if outcome.code is None:
        return f"`{command.text}` did not end within {COMMAND_SECONDS:g} s"
    if command.check is None or command.is_stopped is None:
        return "" if outcome.code == 0 else _complaint(command.text, outcome)
    checked = _run(command.check)
    if command.is_stopped(checked):
        return ""
    detail = " ".join(checked.output.split())[-300:] if command.argv[0] != "pm2" else "it is not stopped"
    return f"{_complaint(command.text, outcome)}; `{' '.join(command.check)}` says: {detail}"


def _complaint(text: str, outcome: Outcome) -> str:
    said = " ".join(outcome.output.split())[-300:]
    return f"`{text}` ended with exit code {outcome.code}{f' ({said})' if said else ''}"


def _run(argv: Sequence[str]) -> Outcome:
    """Run a command in a session of its own; what it starts may live on, what hangs is killed."""
    # A file, not a pipe: a daemon that the command leaves behind would hold a pipe open for ever.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        except OSError as error:
            return Outcome(127, error.strerror or str(error))
        try:
            code: int | None = process.wait(COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the number is its group's
            process.wait()
            code = None
        size = output.seek(0, os.SEEK_END)
        # pm2's list is long, and needed whole; of the rest the end is enough.
        output.seek(0 if argv[-1] == "jlist" else max(size - _SHOWN_BYTES, 0))
        return Outcome(code, output.read().decode("utf-8", "replace"))
