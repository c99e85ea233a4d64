"""Real processes for tests: a workbench with reaper, output and events; waits for conditions, never for time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rollbridge.config.model import (
    DeployStrategy,
    EnvSources,
    Launch,
    LifecycleConfig,
    MemoryConfig,
    Policy,
    ProcessConfig,
    RestartConfig,
)
from rollbridge.process.clock import SystemClock
from rollbridge.process.identity import read_start_ticks
from rollbridge.process.managed import ManagedProcess, ProcessSpec
from rollbridge.process.output import OutputFollower
from rollbridge.process.reaper import Reaper
from rollbridge.process.table import scan_processes

LONG_SECONDS = 20.0  # a condition that is not met by then never will be


def run_async(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


async def until(condition: Callable[[], object], what: str = "") -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LONG_SECONDS
    while not condition():
        assert loop.time() < deadline, f"never came true: {what or condition}"
        await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether ``pid`` lives; a zombie does not."""
    return pid in scan_processes().rows


def is_known_to_kernel(pid: int) -> bool:
    """Whether ``pid`` is a process or a zombie."""
    return read_start_ticks(pid) is not None


def make_process(command: str | tuple[str, ...], **changes: Any) -> ProcessConfig:
    values: dict[str, Any] = {
        "id": "web",
        "policy": Policy.COMPANION,
        "command": command,
        "cwd": "/",
        "env": {},
        "port": None,
        "health": None,
        "replicas": 1,
        "stop_signal": signal.SIGTERM,
        "graceful_stop_seconds": 5.0,
        "non_blocking_drain": False,
        "output_lines": 50,
        "restart_delay_seconds": 0.05,
        "restart": RestartConfig(),
        "memory": None,
        "lifecycle": LifecycleConfig(),
        "deploy_strategy": DeployStrategy.PERSISTENT,
    }
    return ProcessConfig(**{**values, **changes})


def make_spec(
    command: str | tuple[str, ...],
    *,
    cwd: str = "/",
    env: Mapping[str, str] | None = None,
    instance_id: str = "r1.web.0",
    env_sources: EnvSources | None = None,
    **changes: Any,
) -> ProcessSpec:
    process = make_process(command, **changes)
    argv = ("/bin/sh", "-c", command) if isinstance(command, str) else command
    environment = {"PATH": os.environ["PATH"], **(env or {})}
    if process.permissions.user is not None and env_sources is None:
        env_sources = EnvSources((), None, 0.0, {})  # as resolve_launch has it
    launch = Launch(argv, cwd, environment, process.lifecycle, env_sources)
    return ProcessSpec(instance_id, process, launch, "r1", 0, 1, None)


def python(source: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", source)


class Bench:
    """Everything a managed process needs, and everything it said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = SystemClock()
        self.reaper = Reaper(self.clock)
        self.outputs = OutputFollower(directory / "output", self.clock)
        self.events: list[tuple[str, dict[str, object]]] = []
        self.changes = 0
        self.processes: list[ManagedProcess] = []

    def create(self, spec: ProcessSpec, *, is_probation: bool = False) -> ManagedProcess:
        process = ManagedProcess(spec, is_probation=is_probation, **self.wiring())
        self.processes.append(process)
        return process

    def adopt(self, spec: ProcessSpec, record: Mapping[str, object]) -> ManagedProcess:
        process = ManagedProcess.adopt(spec, record, **self.wiring())
        self.processes.append(process)
        return process

    def wiring(self) -> dict[str, Any]:
        return {
            "reaper": self.reaper,
            "outputs": self.outputs,
            "clock": self.clock,
            "on_event": lambda message, data: self.events.append((message, data)),
            "on_change": self._note_change,
        }

    def _note_change(self, process: ManagedProcess) -> None:
        self.changes += 1

    def said(self, message: str) -> list[dict[str, object]]:
        return [data for text, data in self.events if text == message]

    def path(self, name: str) -> Path:
        return self.directory / name


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """A workbench in a new directory; whatever still runs at the end is killed."""
    with tempfile.TemporaryDirectory() as directory:
        made = Bench(Path(directory))
        made.reaper.start()
        try:
            yield made
        finally:
            await asyncio.gather(*(process.kill() for process in made.processes))
            made.outputs.close()
            made.reaper.close()


def memory(limit: int | None, warn: int | None = None, interval: float = 0.05) -> MemoryConfig:
    return MemoryConfig(limit, warn, interval)


async def read_pid(path: Path) -> int:
    """The pid a process writes to ``path`` as its first act."""
    await until(lambda: path.exists() and path.read_text().strip().isdecimal(), f"{path} holds a pid")
    return int(path.read_text())


def count_entries(directory: str) -> int:
    """How many descriptors (/proc/self/fd) or threads (/proc/self/task) there are."""
    return len(list(Path(directory).iterdir()))
