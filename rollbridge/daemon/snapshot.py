"""The daemon's memory as values: what ``status`` shows and what the state file keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rollbridge.config.model import Config
from rollbridge.daemon.events import format_utc
from rollbridge.daemon.options import DaemonOptions
from rollbridge.daemon.worker_link import WorkerLink
from rollbridge.daemon.workers import WorkerPool
from rollbridge.process.managed import ManagedProcess
from rollbridge.process.tree import ProcessTable
from rollbridge.release.fleet import Fleet
from rollbridge.release.release import Release
from rollbridge.release.states import ReleaseState

Document = dict[str, object]


def _at(epoch_seconds: float | None) -> str | None:
    return None if epoch_seconds is None else format_utc(epoch_seconds)


def release_status(release: Release, pool: WorkerPool, table: ProcessTable, drain_seconds: float) -> Document:
    """Return one release as ``status --json`` shows it; ``drain_seconds`` is how long its connections may take."""
    began = release.drain_started_at if release.state is ReleaseState.DRAINING else None
    connections = pool.connections(release.key)
    return {
        "release_id": release.release_id,
        "release_path": release.release_path,
        "revision": release.revision,
        "state": release.state.value,
        "ports": {process_id: list(ports) for process_id, ports in release.ports.items()},
        "connections": {"http": connections.http, "websocket": connections.websocket},
        "activated_at": _at(release.activated_at),
        "drain_started_at": _at(release.drain_started_at),
        "drain_ends_at": None if began is None else _at(began + drain_seconds),
        "stopped_at": _at(release.stopped_at),
        "processes": [process.snapshot(table) for process in release.processes],
    }


def proxy_status(config: Config, pool: WorkerPool) -> Document:
    """Return the data plane as ``status --json`` shows it."""
    return {
        "host": config.proxy.host,
        "port": config.proxy.port,
        "upstream_host": config.proxy.upstream_host,
        "workers": [
            {
                "index": link.index,
                "pid": link.identity.pid,
                "state": _worker_state(link),
                "version": link.version,
                **link.totals(),
            }
            for link in _in_order(pool)
        ],
    }


def _in_order(pool: WorkerPool) -> list[WorkerLink]:
    """The workers by their places, in each the one that serves first."""
    return sorted(pool.links, key=lambda link: (link.index, link.is_retiring))


def _worker_state(link: WorkerLink) -> str:
    return "retiring" if link.is_retiring else "serving"


def fleet_status(fleet: Fleet, pool: WorkerPool, table: ProcessTable) -> Document:
    """Return what runs as ``status --json`` shows it."""
    active = fleet.active
    failure = fleet.last_failure
    drain_seconds = fleet.config.proxy.drain_timeout_seconds
    return {
        "active_release_id": active.release_id if active else None,
        "operation": str(fleet.operation) if fleet.operation else None,
        "releases": [release_status(release, pool, table, drain_seconds) for release in fleet.releases],
        "services": [service.snapshot(table) for service in fleet.services.values()],
        "singletons": [singleton.snapshot(table) for singleton in fleet.singletons.values()],
        "last_failure": None if failure is None else {**failure, "at": _at(_seconds(failure["at"]))},
    }


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def fleet_state(fleet: Fleet, pool: WorkerPool) -> Document:
    """Return what a later daemon needs to carry on: identities, ports, counters; no command, no output."""
    active = fleet.active
    failure = fleet.last_failure
    return {
        "active": active.key if active else None,
        "last_active": None if fleet.last_active is None else _identity(fleet),
        "idle_reason": fleet.idle_reason,
        "releases": [
            {
                "key": release.key,
                "release_id": release.release_id,
                "release_path": release.release_path,
                "revision": release.revision,
                "upstream_host": release.upstream_host,
                "state": release.state.value,
                "ports": {process_id: list(ports) for process_id, ports in release.ports.items()},
                "activated_at": release.activated_at,
                "drain_started_at": release.drain_started_at,
                "stopped_at": release.stopped_at,
                "processes": _records(release.processes),
            }
            for release in fleet.releases
        ],
        "services": _records(fleet.services.values()),
        "singletons": _records(fleet.singletons.values()),
        "shared_ports": dict(fleet.shared_ports),
        "last_ports": dict(fleet.last_ports),
        "last_failure": None if failure is None else {**failure, "lines": []},
        "workers": [
            {
                "index": link.index,
                "pid": link.identity.pid,
                "start_ticks": link.identity.start_ticks,
                "socket": link.socket_path,
                "digest": link.digest,
                "state": _worker_state(link),
            }
            for link in _in_order(pool)
        ],
    }


def _identity(fleet: Fleet) -> Document:
    identity = fleet.last_active
    assert identity is not None
    return {
        "release_id": identity.release_id,
        "release_path": identity.release_path,
        "revision": identity.revision,
    }


def _records(processes: Iterable[ManagedProcess]) -> list[Mapping[str, object]]:
    return [process.record() for process in processes]


def bootstrap_status(options: DaemonOptions) -> Document | None:
    """Return what the daemon was started with, None when it was started empty."""
    if options.release_path is None and not options.resume:
        return None
    return {
        "release_path": options.release_path,
        "release_id": options.release_id,
        "revision": options.revision,
        "boot_attestation": options.boot_attestation,
        "resume": options.resume,
    }
