"""One release: its identity, its ports, its processes, and when it became what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rollbridge.config.model import Policy
from rollbridge.process.managed import ManagedProcess, ProcessState
from rollbridge.release.states import ReleaseEvent, ReleaseState, next_state


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where one proxied replica listens; ``is_up`` False while it is known not to run, or not to be well yet."""

    host: str
    port: int
    is_up: bool


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """A release as the proxy sees it."""

    key: str
    upstreams: tuple[Upstream, ...]


@dataclass(frozen=True, slots=True)
class Connections:
    """What is in flight on one release, all workers together."""

    http: int = 0
    websocket: int = 0

    @property
    def total(self) -> int:
        return self.http + self.websocket


@dataclass(slots=True, eq=False)
class Release:
    """One incarnation of a release.

    ``key`` tells incarnations of one release id apart and is safe in file names. Times are UTC epoch
    seconds, None for what has not happened.
    """

    key: str
    release_id: str
    release_path: str
    revision: str
    upstream_host: str
    ports: Mapping[str, tuple[int, ...]]
    processes: list[ManagedProcess] = field(default_factory=list)
    state: ReleaseState = ReleaseState.STARTING
    activated_at: float | None = None
    drain_started_at: float | None = None
    stopped_at: float | None = None
    warming: set[ManagedProcess] = field(default_factory=set)  # replicas started again, and not yet healthy
    is_stopping: bool = False  # its drain is over: what is left of it is being stopped

    def apply(self, event: ReleaseEvent, now: float) -> None:
        """Move to the next state at ``now`` (UTC epoch seconds); raise IllegalTransition if that is our defect."""
        before = self.state
        self.state = next_state(before, event)
        if self.state is before:
            return
        match self.state:
            case ReleaseState.ACTIVE:
                self.activated_at, self.drain_started_at = now, None
            case ReleaseState.DRAINING:
                self.drain_started_at = now
            case ReleaseState.STOPPED | ReleaseState.FAILED:
                self.stopped_at = now
            case ReleaseState.STARTING:
                pass

    @property
    def is_alive(self) -> bool:
        """Whether it may hold processes and ports."""
        return self.state in (ReleaseState.STARTING, ReleaseState.ACTIVE, ReleaseState.DRAINING)

    @property
    def is_routed(self) -> bool:
        """Whether the proxy must know it: active or draining."""
        return self.state in (ReleaseState.ACTIVE, ReleaseState.DRAINING)

    @property
    def proxied(self) -> list[ManagedProcess]:
        return self.of_policy(Policy.PROXIED)

    def of_policy(self, policy: Policy) -> list[ManagedProcess]:
        """Return its processes of ``policy``, replicas in order."""
        return [process for process in self.processes if process.spec.process.policy is policy]

    @property
    def first_ports(self) -> dict[str, int]:
        """Process id to its (first) port."""
        return {process_id: ports[0] for process_id, ports in self.ports.items()}

    def target(self) -> RouteTarget:
        """Return what the proxy must know of it."""
        running = {process for process in self.proxied if process.state is ProcessState.RUNNING}
        # One that is not well yet is better than none.
        asked = running - self.warming or running
        return RouteTarget(
            self.key,
            tuple(
                Upstream(self.upstream_host, process.spec.port, process in asked)
                for process in self.proxied
                if process.spec.port is not None
            ),
        )
