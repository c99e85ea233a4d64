"""One start of a managed process, and the values that describe it."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from rollbridge.config.model import Launch, ProcessConfig
from rollbridge.process.exits import ExitStatus
from rollbridge.process.reaper import Child
from rollbridge.process.tree import Instance


class ProcessState(enum.Enum):
    STARTING = "starting"  # about to run: waiting out a restart delay, or for leftovers of the last run to end
    RUNNING = "running"  # its program was started and has not ended
    STOPPING = "stopping"  # its stop sequence goes on
    STOPPED = "stopped"  # nothing of its tree is left, as asked
    FAILED = "failed"  # did not start, ended on probation, or gave up restarting


class StartReason(enum.Enum):
    DEPLOY = "deploy"
    CRASH = "crash"
    MANUAL = "manual"
    MEMORY = "memory"
    UNHEALTHY = "unhealthy"
    ADOPTED = "adopted"  # taken over from a record that does not say why it had been started


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run: one replica of one process of one release. ``instance_id`` is safe as a file name."""

    instance_id: str  # unique in the daemon: "r42.web.0"; the status `id`
    process: ProcessConfig
    launch: Launch
    release_id: str
    replica_index: int
    replica_count: int
    port: int | None


@dataclass(slots=True)
class Counters:
    """What a managed process has been through since its release was deployed."""

    restarts: int = 0  # starts after the first, whatever the reason
    memory_restarts: int = 0
    last_memory_restart_at: str | None = None


@dataclass(slots=True, eq=False)
class Run:
    """From one start until nothing of its tree is left (``is_over``)."""

    spec: ProcessSpec  # as it was started; the stop follows this one
    instance: Instance
    leader: Child
    reason: StartReason
    started_at: str
    started_monotonic: float
    finished: asyncio.Future[ExitStatus]  # the leader ended and its output was read to the end
    environment: Mapping[str, str] | None = field(default=None, repr=False)  # None: started by an earlier daemon
    asked: dict[int, int] = field(default_factory=dict)  # who was sent the stop signal: pid to start time
    is_over: bool = False

    @property
    def is_alive(self) -> bool:
        return not self.leader.exit.done()
