"""Everything one daemon runs: its releases, services and singletons, and the one operation in hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from rollbridge.config.model import Config, Policy
from rollbridge.process.managed import ManagedProcess, ProcessSpec, ProcessState
from rollbridge.release.errors import OperationRefused
from rollbridge.release.release import Connections, Release, RouteTarget
from rollbridge.release.states import ReleaseState
from rollbridge.release.steps import Passed, pass_by
from rollbridge.release.warming import until_healthy


class Traffic(Protocol):
    """What moves requests: the proxy workers, seen from here."""

    async def switch(self, active: str | None, reason: str, targets: tuple[RouteTarget, ...]) -> None:
        """Return when every worker has acknowledged the route."""

    def announce(self, active: str | None, reason: str, targets: tuple[RouteTarget, ...]) -> None:
        """Tell every worker the route without waiting: the same releases, other facts about them."""

    def connections(self, key: str) -> Connections:
        """Return what is in flight on a release."""

    async def wait_until_idle(self, key: str) -> None:
        """Return when nothing is in flight on a release."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the flows need of the daemon around them: no clock, file or log is reached otherwise.

    ``record`` appends an event, ``save`` writes the state file in a moment, ``save_now`` before it returns: for what
    a next daemon must know, whenever this one is killed. ``utc`` is epoch seconds and
    ``clock`` monotonic seconds; ``read_config`` raises ConfigError. ``passed`` hears of every step that is done.
    """

    read_config: Callable[[], Config]
    create_process: Callable[[ProcessSpec], ManagedProcess]
    record: Callable[[str, dict[str, object]], None]
    save: Callable[[], None]
    save_now: Callable[[], object]
    utc: Callable[[], float]
    clock: Callable[[], float]
    environ: Mapping[str, str]
    traffic: Traffic
    passed: Passed = pass_by


@dataclass(frozen=True, slots=True)
class ReleaseIdentity:
    """Which release: its id, where it lies (a real path), and its revision."""

    release_id: str
    release_path: str
    revision: str


@dataclass(frozen=True, slots=True)
class Operation:
    """What is being done now, for whoever has to wait or is refused."""

    name: str
    subject: str
    task: asyncio.Task[object] | None

    def __str__(self) -> str:
        return f"{self.name} {self.subject}".strip()


@dataclass(slots=True, eq=False)
class Fleet:
    """The living whole. ``shared_ports`` are those of services and singletons, kept while the daemon lives."""

    config: Config
    around: Surroundings
    releases: list[Release] = field(default_factory=list)
    services: dict[str, ManagedProcess] = field(default_factory=dict)
    singletons: dict[str, ManagedProcess] = field(default_factory=dict)
    shared_ports: dict[str, int] = field(default_factory=dict)
    last_ports: dict[str, int] = field(default_factory=dict)  # process id to the last port given out
    retirements: dict[str, asyncio.Task[None]] = field(default_factory=dict)  # release key to its drain
    last_failure: dict[str, object] | None = None
    last_active: ReleaseIdentity | None = None  # what a later daemon resumes; None after a stop by the operator
    idle_reason: str = "none"  # why no release is active: "none" yet, or "stopped"
    is_shutting_down: bool = False
    operation: Operation | None = None
    _warmups: dict[ManagedProcess, asyncio.Task[None]] = field(default_factory=dict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def environ(self) -> Mapping[str, str]:
        return self.around.environ

    @property
    def active(self) -> Release | None:
        return next((release for release in self.releases if release.state is ReleaseState.ACTIVE), None)

    def find(self, release_id: str) -> list[Release]:
        """Return the incarnations of ``release_id``, newest last."""
        return [release for release in self.releases if release.release_id == release_id]

    def new_key(self, release_id: str) -> str:
        """Return a key that no incarnation has; ``~`` cannot stand in a release id."""
        taken = {release.key for release in self.releases}
        candidates = (release_id if n == 1 else f"{release_id}~{n}" for n in range(1, len(taken) + 2))
        return next(key for key in candidates if key not in taken)

    def all_processes(self) -> list[ManagedProcess]:
        """Return every managed process, those of stopped releases included."""
        of_releases = [process for release in self.releases for process in release.processes]
        return [*self.services.values(), *self.singletons.values(), *of_releases]

    def reserved_ports(self) -> set[int]:
        """Return the ports that living releases, services and singletons have been given."""
        of_releases = {
            port for release in self.releases if release.is_alive for ports in release.ports.values() for port in ports
        }
        return of_releases | set(self.shared_ports.values())

    def route(self) -> tuple[str | None, str, tuple[RouteTarget, ...]]:
        """Return the route as it is now: the active key, why there is none, and every routed release."""
        active = self.active
        targets = tuple(release.target() for release in self.releases if release.is_routed)
        return (active.key if active else None, self.idle_reason, targets)

    def process_changed(self, process: ManagedProcess) -> None:
        """A process came up or went down: tell the proxy when it concerns traffic, and record it."""
        if process.spec.process.policy is Policy.PROXIED:
            for release in self.releases:
                if process in release.processes:
                    self._warm_up(release, process)
                    if release.is_routed:
                        self.around.traffic.announce(*self.route())
        if process.state is ProcessState.RUNNING:
            self.around.save_now()  # what has just been started, and by which pid
        else:
            self.around.save()

    def _warm_up(self, release: Release, process: ManagedProcess) -> None:
        """Have a replica that came up again asked when it is healthy; until then the others serve."""
        former = self._warmups.pop(process, None)
        if former is not None:
            former.cancel()
        release.warming.discard(process)
        is_up_again = process.state is ProcessState.RUNNING and release.is_routed
        if is_up_again and process.spec.process.health is not None and len(release.proxied) > 1:
            release.warming.add(process)
            self._warmups[process] = asyncio.create_task(
                self._until_warm(release, process), name=f"warm up {process.spec.instance_id}"
            )

    async def _until_warm(self, release: Release, process: ManagedProcess) -> None:
        began = self.around.clock()
        await until_healthy(process, release.upstream_host)
        del self._warmups[process]
        release.warming.discard(process)
        seconds = round(self.around.clock() - began, 3)
        self.around.record("process healthy", {"process": process.spec.instance_id, "seconds": seconds})
        if release.is_routed:
            self.around.traffic.announce(*self.route())

    @contextlib.asynccontextmanager
    async def exclusive(self, name: str, subject: str = "", wait: bool = False) -> AsyncIterator[None]:
        """Hold the one turn that deploys, rollbacks, stops and restarts share.

        Raises OperationRefused when it is taken and ``wait`` is false, or when the daemon shuts down.
        """
        if self._turn.locked() and not wait:
            busy = str(self.operation) if self.operation else "another operation"
            raise OperationRefused(f"busy with {busy}: wait until it is done, or use --wait where the command has it")
        async with self._turn:
            if self.is_shutting_down:
                raise OperationRefused("the daemon is shutting down")
            self.operation = Operation(name, subject, asyncio.current_task())
            try:
                yield
            finally:
                self.operation = None
