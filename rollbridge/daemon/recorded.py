"""What an earlier daemon wrote down, read back as values. Pure, and suspicious: the file may have been edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rollbridge.daemon.events import KEPT_EVENTS, Event
from rollbridge.daemon.intent import Intent, read_intent
from rollbridge.release.fleet import ReleaseIdentity
from rollbridge.release.states import ReleaseState

Record = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RecordedRelease:
    """One release as it was when the state was last written; ``processes`` are records of the process room."""

    key: str
    identity: ReleaseIdentity
    upstream_host: str
    state: ReleaseState
    ports: Mapping[str, tuple[int, ...]]
    activated_at: float | None
    drain_started_at: float | None
    stopped_at: float | None
    processes: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class RecordedWorker:
    """A proxy worker and where it can be reached."""

    index: int
    pid: int
    start_ticks: int
    socket_path: str
    digest: str = ""  # of its code; empty when that is not known
    is_retiring: bool = False


@dataclass(frozen=True, slots=True)
class RecordedState:
    """Everything of the state file that a later daemon carries on with; what makes no sense is left out."""

    boot_id: str
    releases: tuple[RecordedRelease, ...]
    services: tuple[Record, ...]
    singletons: tuple[Record, ...]
    orphans: tuple[Record, ...]  # processes that an earlier daemon could already not place
    workers: tuple[RecordedWorker, ...]
    shared_ports: Mapping[str, int]
    last_ports: Mapping[str, int]
    last_active: ReleaseIdentity | None
    last_failure: dict[str, object] | None
    idle_reason: str
    intent: Intent
    events: tuple[Event, ...]


def read_recorded(state: Record) -> RecordedState:
    """Return what ``state`` (a decoded state file, or {}) says; entries of the wrong shape are skipped."""
    failure = state.get("last_failure")
    return RecordedState(
        boot_id=_text(state.get("boot_id")),
        releases=tuple(
            release for entry in _objects(state.get("releases")) if (release := _release(entry)) is not None
        ),
        services=tuple(_objects(state.get("services"))),
        singletons=tuple(_objects(state.get("singletons"))),
        orphans=tuple(_objects(state.get("orphans"))),
        workers=tuple(worker for entry in _objects(state.get("workers")) if (worker := _worker(entry)) is not None),
        shared_ports=_port_map(state.get("shared_ports")),
        last_ports=_port_map(state.get("last_ports")),
        last_active=_identity(state.get("last_active")),
        last_failure=dict(failure) if isinstance(failure, dict) else None,
        idle_reason=_text(state.get("idle_reason")) or "none",
        intent=read_intent(state.get("intent")),
        events=tuple(dict(entry) for entry in _objects(state.get("events"))[-KEPT_EVENTS:]),
    )


def state_after(recorded: ReleaseState, is_same_boot: bool) -> ReleaseState:
    """Return what a recorded release is now: the same, unless a reboot has ended all that ran.

    In the same boot even one without a living process keeps its state: what is missing of the active release is
    started again, and what the others left behind is stopped as it would have been.
    """
    if is_same_boot or recorded in (ReleaseState.STOPPED, ReleaseState.FAILED):
        return recorded
    return ReleaseState.FAILED if recorded is ReleaseState.STARTING else ReleaseState.STOPPED


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _objects(value: object) -> Sequence[dict[str, object]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536


def _port_map(value: object) -> dict[str, int]:
    return {str(name): port for name, port in value.items() if _is_port(port)} if isinstance(value, dict) else {}


def _port_lists(value: object) -> dict[str, tuple[int, ...]]:
    if not isinstance(value, dict):
        return {}
    return {
        str(name): tuple(ports)
        for name, ports in value.items()
        if isinstance(ports, list) and ports and all(_is_port(port) for port in ports)
    }


def _identity(value: object) -> ReleaseIdentity | None:
    if not isinstance(value, dict):
        return None
    fields = [value.get(name) for name in ("release_id", "release_path", "revision")]
    if not all(isinstance(field, str) for field in fields):
        return None
    release_id, release_path, revision = (str(field) for field in fields)
    return ReleaseIdentity(release_id, release_path, revision)


def _release(entry: Record) -> RecordedRelease | None:
    identity = _identity(entry)
    known = {state.value: state for state in ReleaseState}
    state = known.get(_text(entry.get("state")))
    key = _text(entry.get("key"))
    if identity is None or state is None or not key:
        return None
    return RecordedRelease(
        key=key,
        identity=identity,
        upstream_host=_text(entry.get("upstream_host")) or "127.0.0.1",
        state=state,
        ports=_port_lists(entry.get("ports")),
        activated_at=_number(entry.get("activated_at")),
        drain_started_at=_number(entry.get("drain_started_at")),
        stopped_at=_number(entry.get("stopped_at")),
        processes=tuple(_objects(entry.get("processes"))),
    )


def _worker(entry: Record) -> RecordedWorker | None:
    index, pid, ticks = entry.get("index"), entry.get("pid"), entry.get("start_ticks")
    path = _text(entry.get("socket"))
    if not (isinstance(index, int) and isinstance(pid, int) and isinstance(ticks, int) and path):
        return None
    return RecordedWorker(index, pid, ticks, path, _text(entry.get("digest")), entry.get("state") == "retiring")
