"""The product as the demo uses it: its commands, run like a user runs them, and the processes that come of it."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# Not ROLLBRIDGE_...: such names are the product's, and it does not hand them down.
MARK: Final = "DEMO_OF_ROLLBRIDGE"
# Would be meant for us and not for our children: systemd's socket activation and notification.
NOT_INHERITED: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET")
COMMAND_SECONDS: Final = 30.0
KILL_SECONDS: Final = 5.0
MAX_LINE_BYTES: Final = 1024 * 1024
NO_DAEMON: Final = 3
LOG_TAIL_LINES: Final = 20


class CommandFailed(Exception):
    """A command did not end as it should; the message names it and its exit code."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    exit_code: int
    output: str
    errors: tuple[str, ...]

    @property
    def answer(self) -> dict[str, Any]:
        """What ``--json`` printed. Raises CommandFailed when that is no JSON object."""
        try:
            value = json.loads(self.output)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise CommandFailed(f"the answer is not a JSON object: {self.output[:200]!r}")
        return value


class Product:
    """Runs commands one at a time; everything that they start carries ``mark`` in its environment."""

    def __init__(self, self_command: Sequence[str], config_path: Path, mark: str, environ: Mapping[str, str]) -> None:
        self._self_command = list(self_command)
        self._config_path = config_path
        self._mark = mark
        self._environ = {name: value for name, value in environ.items() if name not in NOT_INHERITED} | {MARK: mark}
        self._processes: list[asyncio.subprocess.Process] = []

    async def run(self, *arguments: str, on_line: Callable[[str], None] | None = None) -> CommandResult:
        """Run one command with ``--json``; ``on_line`` gets each line of its stderr as it comes.

        Raises CommandFailed when it does not end in time. When cancelled, the command goes on.
        """
        name, *rest = arguments
        process = await asyncio.create_subprocess_exec(
            *self._self_command,
            name,
            "--config",
            str(self._config_path),
            "--json",
            *rest,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environ,
            cwd=self._config_path.parent,
            start_new_session=True,  # Ctrl-C is for the demo, which ends its commands in order
            limit=MAX_LINE_BYTES,
        )
        self._processes.append(process)
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                output, errors = await asyncio.gather(read_all(process.stdout), read_lines(process.stderr, on_line))
                exit_code = await process.wait()
        except TimeoutError:
            raise CommandFailed(f"`{name}` did not end within {COMMAND_SECONDS:g} s") from None
        return CommandResult(exit_code, output, tuple(errors))

    async def shut_down(self, hurry: asyncio.Event) -> bool:
        """Shut the daemon down, also one that a command just now starts; returns early when told to hurry.

        Whether the product did it: then everything that it started must be gone.
        """
        deadline = time.monotonic() + COMMAND_SECONDS
        started_before = list(self._processes)
        while time.monotonic() < deadline and not hurry.is_set():
            may_start = any(process.returncode is None for process in started_before)
            shutdown = asyncio.create_task(self.run("shutdown"))
            hurried = asyncio.create_task(hurry.wait())
            await asyncio.wait({shutdown, hurried}, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            if not shutdown.done():
                shutdown.cancel()
            result = (await asyncio.gather(shutdown, return_exceptions=True))[0]
            is_gone = isinstance(result, CommandResult) and result.exit_code == NO_DAEMON
            if isinstance(result, CommandResult) and (result.exit_code == 0 or (is_gone and not may_start)):
                await self.reap()  # a command that waited for the daemon ends with it
                return True
            await asyncio.sleep(0.1)
        return False

    async def reap(self) -> None:
        """Wait for commands whose end nobody has seen; not for ever."""
        waits = [asyncio.create_task(process.wait()) for process in self._processes]
        if waits:
            _, hanging = await asyncio.wait(waits, timeout=KILL_SECONDS)
            for wait in hanging:
                wait.cancel()

    def processes(self) -> dict[int, str]:
        """Everything alive that our commands started: pid and command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and is_marked(entry, self._mark):
                found[int(entry.name)] = read_command(entry)
        return found

    def kill_processes(self) -> dict[int, str]:
        """Kill everything that our commands started and that lives still; returns what that was."""
        killed: dict[int, str] = {}
        deadline = time.monotonic() + KILL_SECONDS
        while (alive := self.processes()) and time.monotonic() < deadline:
            killed |= alive
            for pid in alive:
                self.kill(pid)
        return killed

    def kill(self, pid: int) -> bool:
        """``kill -9``, and wait until the kernel has closed all that the process held; whether it was ours and died."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            if not is_marked(Path("/proc") / str(pid), self._mark):  # the number may be somebody else's by now
                return False
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            return bool(select.select([descriptor], [], [], KILL_SECONDS)[0])
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)


async def read_all(stream: asyncio.StreamReader | None) -> str:
    return (await stream.read()).decode("utf-8", "replace") if stream is not None else ""


async def read_lines(stream: asyncio.StreamReader | None, on_line: Callable[[str], None] | None) -> list[str]:
    lines: list[str] = []
    while stream is not None and (data := await stream.readline()):
        line = data.decode("utf-8", "replace").rstrip()
        lines.append(line)
        if on_line is not None:
            on_line(line)
    return lines


def is_marked(entry: Path, mark: str) -> bool:
    """Whether the process of this ``/proc`` entry carries ``mark``; a foreign or vanished one does not."""
    try:
        return f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def read_command(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def read_log_tail(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
    except FileNotFoundError:
        return []
