"""What the state file does not tell, told by what lives: releases, services and singletons, and who has the traffic.

Pure: over what was found of the processes and what the proxy workers say. Used when the file was lost or damaged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from rollbridge.config.model import Config, Policy
from rollbridge.config.rules import port_variable
from rollbridge.daemon.recorded import Record, RecordedRelease, RecordedState, state_after
from rollbridge.release.fleet import ReleaseIdentity
from rollbridge.release.states import ReleaseState

_ALIVE: Final = (ReleaseState.STARTING, ReleaseState.ACTIVE, ReleaseState.DRAINING)


@dataclass(frozen=True, slots=True)
class Sighted:
    """One start that nobody has on record: its ``record`` as the state file would hold it, and its environment."""

    record: Record
    environ: Mapping[str, str]

    @property
    def instance_id(self) -> str:
        return str(self.record["id"])

    @property
    def key(self) -> str:
        """The key of its release; empty for what all releases share."""
        parts = self.instance_id.rsplit(".", 2)
        return parts[0] if len(parts) == 3 else ""

    @property
    def process_id(self) -> str:
        parts = self.instance_id.rsplit(".", 2)
        return parts[1] if len(parts) == 3 else self.instance_id

    @property
    def replica(self) -> int:
        last = self.instance_id.rpartition(".")[2]
        return int(last) if self.key and last.isdecimal() else 0

    def port(self, name: str) -> int | None:
        text = self.environ.get(name, "")
        return int(text) if text.isdecimal() and 0 < int(text) < 65536 else None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the living proxy workers say, all together: the releases that get new requests, and all they know."""

    active: frozenset[str] = frozenset()
    routed: frozenset[str] = frozenset()


def complete(
    recorded: RecordedState, sighted: Sequence[Sighted], seen: Seen, config: Config, boot_id: str, now: float
) -> RecordedState:
    """Return ``recorded`` with every process of ``sighted`` in its place; ``now`` is epoch seconds.

    What has no place becomes an orphan.
    """
    if recorded.boot_id != boot_id:
        recorded = _after_reboot(recorded, boot_id, now)
    for one in sighted:
        process = config.processes.get(one.process_id)
        if process is None or (one.key == "" and process.policy not in (Policy.SERVICE, Policy.SINGLETON)):
            recorded = replace(recorded, orphans=(*recorded.orphans, one.record))
        elif one.key == "":
            recorded = _with_shared(recorded, one, process.policy)
    of_releases = [one for one in sighted if one.key and one.process_id in config.processes]
    for key in dict.fromkeys(one.key for one in of_releases):
        recorded = _with_release(recorded, key, [one for one in of_releases if one.key == key], seen, config, now)
    if recorded.last_active is None:
        active = next((one.identity for one in recorded.releases if one.state is ReleaseState.ACTIVE), None)
        recorded = replace(recorded, last_active=active)
    return recorded


def unaccounted(recorded: RecordedState, seen: Seen) -> list[str]:
    """Return the releases that get requests now, and of which nothing is known that could go on taking them."""
    known = {release.key for release in recorded.releases if release.state in _ALIVE}
    return sorted(seen.active - known)


def _after_reboot(recorded: RecordedState, boot_id: str, now: float) -> RecordedState:
    """Return what is left to know: nothing that is on record runs any more."""
    releases = tuple(
        replace(one, state=after, processes=(), stopped_at=one.stopped_at if after is one.state else now)
        for one in recorded.releases
        for after in (state_after(one.state, is_same_boot=False),)
    )
    return replace(
        recorded,
        boot_id=boot_id,
        releases=releases,
        services=(),
        singletons=(),
        orphans=(),
        workers=(),
        shared_ports={},
    )


def _replaced(records: Iterable[Record], new: Record) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Return ``records`` with ``new`` in the place of what had its id, and what that was."""
    kept = tuple(record for record in records if record.get("id") != new["id"])
    gone = tuple(record for record in records if record.get("id") == new["id"])
    return (*kept, new), gone


def _with_shared(recorded: RecordedState, one: Sighted, policy: Policy) -> RecordedState:
    port = one.port("ROLLBRIDGE_PORT")
    ports = {**recorded.shared_ports, **({one.process_id: port} if port is not None else {})}
    if policy is Policy.SERVICE:
        services, gone = _replaced(recorded.services, one.record)
        recorded = replace(recorded, services=services)
    else:
        singletons, gone = _replaced(recorded.singletons, one.record)
        recorded = replace(recorded, singletons=singletons)
    # Two of one name: the start that replaced the one on record, of which something may be left.
    return replace(recorded, shared_ports=ports, orphans=(*recorded.orphans, *gone))


def _with_release(
    recorded: RecordedState, key: str, sighted: Sequence[Sighted], seen: Seen, config: Config, now: float
) -> RecordedState:
    known = next((one for one in recorded.releases if one.key == key and one.state in _ALIVE), None)
    orphans = recorded.orphans
    if known is None:
        first = sighted[0].environ
        path = first.get("ROLLBRIDGE_RELEASE_PATH", "")
        release_id = first.get("ROLLBRIDGE_RELEASE_ID", "") or key.partition("~")[0]
        state = _state_of(recorded, key, sighted, seen, config)
        if state is None or not path:
            return replace(recorded, orphans=(*orphans, *(one.record for one in sighted)))
        known = RecordedRelease(
            key=key,
            identity=ReleaseIdentity(release_id, path, first.get("ROLLBRIDGE_REVISION", "") or release_id),
            upstream_host=config.proxy.upstream_host,
            state=state,
            ports=_ports(sighted, config),
            activated_at=now if state is not ReleaseState.STARTING else None,
            drain_started_at=now if state is ReleaseState.DRAINING else None,
            stopped_at=None,
            processes=(),
        )
    for one in sighted:
        processes, gone = _replaced(known.processes, one.record)
        known = replace(known, processes=processes)
        orphans = (*orphans, *gone)
    others = tuple(one for one in recorded.releases if one.key != key)
    return replace(recorded, releases=(*others, known), orphans=orphans)


def _state_of(
    recorded: RecordedState, key: str, sighted: Sequence[Sighted], seen: Seen, config: Config
) -> ReleaseState | None:
    """Return what a release is that only its processes tell of; None when it cannot be known."""
    has_active = any(one.state is ReleaseState.ACTIVE for one in recorded.releases)
    if key in seen.active and not has_active:
        return ReleaseState.ACTIVE
    if key in seen.routed:
        return ReleaseState.DRAINING
    if seen.routed or has_active:
        return ReleaseState.STARTING  # it was coming up, and had no traffic yet
    # No worker lives that could tell. The only release there is will be the one that served.
    is_proxied = any(config.processes[one.process_id].policy is Policy.PROXIED for one in sighted)
    return ReleaseState.ACTIVE if is_proxied and not recorded.releases else None


def _ports(sighted: Sequence[Sighted], config: Config) -> dict[str, tuple[int, ...]]:
    """Return the ports of every process of a release, as its own processes were told them."""
    found: dict[str, tuple[int, ...]] = {}
    for process in config.processes.values():
        is_shared = process.policy in (Policy.SERVICE, Policy.SINGLETON) and not process.is_handoff
        if process.port is None or is_shared:
            continue
        by_replica = {
            one.replica: port
            for one in sighted
            if one.process_id == process.id and (port := one.port("ROLLBRIDGE_PORT")) is not None
        }
        told = next((port for one in sighted if (port := one.port(port_variable(process.id))) is not None), None)
        if told is not None:
            by_replica.setdefault(0, told)
        if by_replica:
            found[process.id] = _filled(by_replica, process.replicas, range(process.port.first, process.port.last + 1))
    return found


def _filled(by_replica: Mapping[int, int], replicas: int, choice: Iterable[int]) -> tuple[int, ...]:
    """Return a port for every replica; one that is not known is chosen, its process will not run."""
    taken: Collection[int] = set(by_replica.values())
    free = iter([port for port in choice if port not in taken])
    return tuple(by_replica[index] if index in by_replica else next(free) for index in range(replicas))
