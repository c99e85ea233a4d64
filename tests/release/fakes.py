"""A fleet without processes, sockets or time: what the flows decide, and in which order they ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from rollbridge.config.model import Config
from rollbridge.process.exits import ExitStatus
from rollbridge.process.managed import ManagedProcess, ProcessSpec, ProcessState, StartFailed, StartReason
from rollbridge.release.fleet import Fleet, Surroundings
from rollbridge.release.release import Connections, RouteTarget


class FakeProcess:
    """Stands in for ManagedProcess; writes what it is asked for into ``journal``."""

    def __init__(self, spec: ProcessSpec, world: World) -> None:
        self.spec = spec
        self.world = world
        self.state = ProcessState.STOPPED
        self.exit: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self.is_on_probation = True
        self.is_discarded = False
        self.failure: str | None = None

    def _note(self, what: str) -> None:
        self.world.journal.append(f"{what} {self.spec.instance_id}")

    async def start(self, reason: StartReason) -> None:
        self._note("start")
        if self.spec.process.id in self.world.broken:
            self.state = ProcessState.FAILED
            raise StartFailed("command not found")
        self.state = ProcessState.RUNNING
        if self.exit.done():
            self.exit = asyncio.get_running_loop().create_future()
        if status := self.world.exits.get(self.spec.process.id):
            self.state = ProcessState.FAILED
            self.exit.set_result(status)

    async def stop(self) -> None:
        self._note("stop")
        gate = self.world.slow_stops.get(self.spec.process.id)
        if gate is not None:
            await gate.wait()
        self.state = ProcessState.STOPPED

    async def kill(self) -> None:
        self._note("kill")
        self.state = ProcessState.STOPPED

    async def restart(self, reason: StartReason) -> None:
        self._note("restart")
        if self.spec.process.id in self.world.broken:
            raise StartFailed("command not found")

    def redefine(self, spec: ProcessSpec) -> None:
        self._note(f"redefine {spec.release_id}")
        self.spec = spec

    def end_probation(self) -> None:
        self.is_on_probation = False

    async def wait_exit(self) -> ExitStatus:
        return await asyncio.shield(self.exit)

    def tree_pids(self) -> set[int]:
        return set()

    def last_lines(self, n: int) -> list[object]:
        return []

    def discard(self) -> None:
        self.is_discarded = True


@dataclass
class FakeTraffic:
    """Acknowledges every route at once, or when ``gate`` is set; connections are what the test says."""

    journal: list[str]
    in_flight: dict[str, Connections] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    route: tuple[str | None, str, tuple[RouteTarget, ...]] | None = None
    on_switch: Callable[[], None] = lambda: None

    async def switch(self, active: str | None, reason: str, targets: tuple[RouteTarget, ...]) -> None:
        self.route = (active, reason, targets)
        self.journal.append(f"switch {active}")
        self.on_switch()

    def announce(self, active: str | None, reason: str, targets: tuple[RouteTarget, ...]) -> None:
        self.route = (active, reason, targets)

    def connections(self, key: str) -> Connections:
        return self.in_flight.get(key, Connections())

    async def wait_until_idle(self, key: str) -> None:
        while self.connections(key).total:
            self.changed.clear()
            await self.changed.wait()

    def set_in_flight(self, key: str, connections: Connections) -> None:
        self.in_flight[key] = connections
        self.changed.set()


@dataclass
class World:
    """Everything the tests set, and everything that happened."""

    config: Config
    journal: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)  # process ids that do not start
    exits: dict[str, ExitStatus] = field(default_factory=dict)  # process ids that exit at once
    slow_stops: dict[str, asyncio.Event] = field(default_factory=dict)
    events: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    progress: list[Mapping[str, object]] = field(default_factory=list)
    utc_seconds: float = 1_000_000.0
    is_saving_noted: bool = False  # whether the journal shows when the state is written at once

    def __post_init__(self) -> None:
        self.traffic = FakeTraffic(self.journal)
        self.fleet = Fleet(
            self.config,
            Surroundings(
                read_config=lambda: self.config,
                create_process=lambda spec: cast("ManagedProcess", FakeProcess(spec, self)),
                record=lambda message, data: self.events.append((message, data)),
                save=lambda: None,
                save_now=lambda: self.journal.append("save") if self.is_saving_noted else None,
                utc=self._utc,
                clock=lambda: self.utc_seconds,
                environ={"PATH": "/usr/bin"},
                traffic=self.traffic,
            ),
        )

    def _utc(self) -> float:
        # Every look is a little later, so that "most recently" has an answer.
        self.utc_seconds += 0.001
        return self.utc_seconds

    def starts(self) -> list[str]:
        return [entry.removeprefix("start ") for entry in self.journal if entry.startswith("start ")]

    def stops(self) -> list[str]:
        return [entry.removeprefix("stop ") for entry in self.journal if entry.startswith("stop ")]

    def reconfigure(self, **changes: object) -> None:
        self.config = replace(self.config, **changes)  # type: ignore[arg-type]  # the test names real fields


async def settled() -> None:
    """Let every task that can run, run."""
    for _ in range(20):
        await asyncio.sleep(0)
