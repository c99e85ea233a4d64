"""Carries on where an earlier daemon ended, however it ended: the way to start after a crash.

First everything that lives is taken over as it is (``take_over``), so that the first route we send says
what the earlier daemon's last one said; then what was half done is undone or completed (``repair``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rollbridge.config.model import Config, Policy
from rollbridge.daemon.definitions import definable, rebuilt, template_of
from rollbridge.daemon.errors import DaemonFailed
from rollbridge.daemon.intent import intent_at_start
from rollbridge.daemon.recorded import Record, RecordedRelease, RecordedState, state_after
from rollbridge.daemon.supervisor import Supervisor
from rollbridge.process.managed import ManagedProcess, ProcessSpec, ProcessState, StartFailed, StartReason
from rollbridge.process.recognition import is_living
from rollbridge.release.fleet import Fleet, ReleaseIdentity
from rollbridge.release.release import Release
from rollbridge.release.retire import prune, retire_in_background
from rollbridge.release.starting import release_specs, shared_specs
from rollbridge.release.states import ReleaseEvent, ReleaseState


@dataclass(slots=True)
class Adopted:
    """What was taken over: the processes that live, by instance id, and the release that was coming up."""

    alive: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    unfinished: list[Release] = field(default_factory=list)
    release_ids: dict[str, str] = field(default_factory=dict)  # instance id to the release whose definition it runs
    on_probation: set[str] = field(default_factory=set)  # started by a deploy that had not come to its switch


def take_over(supervisor: Supervisor, recorded: RecordedState) -> Adopted:
    """Rebuild the fleet from the recorded state, with every recorded process that still lives."""
    fleet = supervisor.fleet
    fleet.last_active, fleet.last_failure = recorded.last_active, recorded.last_failure
    fleet.idle_reason = recorded.idle_reason
    supervisor.intent = intent_at_start(recorded.intent)
    fleet.last_ports.update(recorded.last_ports)
    supervisor.machinery.events.restore(recorded.events)
    adopted = Adopted()
    for orphan in recorded.orphans:
        supervisor.keep_orphan(orphan, "an earlier daemon could not place it")
    is_same_boot = recorded.boot_id == supervisor.machinery.reaper.boot_id
    if is_same_boot:
        # The templates of what lives name these ports; after a reboot they are chosen afresh.
        fleet.shared_ports.update(recorded.shared_ports)
    for one in recorded.releases:
        _take_release(supervisor, one, is_same_boot, adopted)
    template = template_of(fleet.releases)
    if is_same_boot and template is None:
        for record in (*recorded.services, *recorded.singletons):
            supervisor.keep_orphan(record, "no release is known any more that defines it")
    if is_same_boot and template is not None:
        for policy, records, place in (
            (Policy.SERVICE, recorded.services, fleet.services),
            (Policy.SINGLETON, recorded.singletons, fleet.singletons),
        ):
            specs = _usable(fleet, lambda config, policy=policy: shared_specs(fleet, config, template, policy))  # type: ignore[misc]  # the default binds the loop's value
            for process in _adopt(supervisor, specs, records, adopted):
                place[process.spec.process.id] = process
    _complete_switch(supervisor, adopted)
    return adopted


def switched_to(actives: Collection[str | None], recorded: Mapping[str, ReleaseState]) -> str | None:
    """Return the release to which traffic had switched without the state file knowing it, None when it knows.

    ``actives`` is what the workers that live send requests to. One that was coming up counts from the first worker on:
    it was healthy, and requests are being answered by it. One that drained only when all have gone back to it.
    """
    for key in sorted(key for key in actives if key is not None):
        if recorded.get(key) is ReleaseState.STARTING:
            return key
    (only,) = set(actives) if len(set(actives)) == 1 else (None,)
    return only if only is not None and recorded.get(only) is ReleaseState.DRAINING else None


def _complete_switch(supervisor: Supervisor, adopted: Adopted) -> None:
    """Stay with the release that takes the traffic: the daemon ended between the switch and writing it down."""
    fleet = supervisor.fleet
    actives = {worker.active for worker in supervisor.machinery.pool.attached}
    key = switched_to(actives, {release.key: release.state for release in fleet.releases})
    release = next((one for one in fleet.releases if one.key == key), None)
    if release is None or not release.proxied or any(one.state is not ProcessState.RUNNING for one in release.proxied):
        return
    now = fleet.around.utc()
    if fleet.active is not None:
        fleet.active.apply(ReleaseEvent.RETIRED, now)
    release.apply(ReleaseEvent.SWITCHED, now)
    if release in adopted.unfinished:
        adopted.unfinished.remove(release)
    fleet.last_active = ReleaseIdentity(release.release_id, release.release_path, release.revision)
    supervisor.machinery.events.record("switch completed", {"release_id": release.release_id})


def _take_release(supervisor: Supervisor, one: RecordedRelease, is_same_boot: bool, adopted: Adopted) -> None:
    fleet = supervisor.fleet
    release = rebuilt(one)
    was_alive = release.is_alive
    if was_alive and is_same_boot:
        specs = _usable(fleet, lambda config: release_specs(fleet, config, release))
        if release.state is ReleaseState.ACTIVE:
            _refuse_to_forget(release, one.processes, specs)
        release.processes = _adopt(supervisor, specs, one.processes, adopted)
    release.state = state_after(one.state, is_same_boot)
    if was_alive and not release.is_alive:
        release.stopped_at = fleet.around.utc()
    fleet.releases.append(release)
    if release.state is ReleaseState.STARTING:
        adopted.unfinished.append(release)


def _usable(fleet: Fleet, build: Callable[[Config], list[ProcessSpec]]) -> dict[str, ProcessSpec]:
    return definable(fleet.config, build, fleet.around.record)


def _refuse_to_forget(release: Release, records: Sequence[Record], specs: Mapping[str, ProcessSpec]) -> None:
    """Raise DaemonFailed when the active release lives, and nothing that takes its traffic can be taken over.

    The first route we send would end that traffic.
    """
    names = [str(record.get("id")) for record in records]
    living = [name for name, record in zip(names, records, strict=True) if is_living(record)]
    # A proxied process that has died counts too: the configuration knows it, and it is started again.
    if living and not any(name in specs and specs[name].process.policy is Policy.PROXIED for name in names):
        known = ", ".join(dict.fromkeys(name.rsplit(".", 2)[-2] for name in living if name.count(".") >= 2))
        raise DaemonFailed(
            f"release {release.release_id} runs with {known}, and the configuration does not define its proxied "
            f"process any more. It is left as it is, and serves. Put the configuration back and start the daemon; "
            f"rename the process only when it is shut down",
            4,
        )


def _adopt(
    supervisor: Supervisor, specs: Mapping[str, ProcessSpec], records: Iterable[Record], adopted: Adopted
) -> list[ManagedProcess]:
    processes = []
    for record in records:
        name = str(record.get("id"))
        spec = specs.get(name)
        if spec is None:
            supervisor.keep_orphan(record, "the configuration has no such process any more")
            continue
        try:
            process = supervisor.adopt_process(spec, record)
        except ValueError as error:
            supervisor.keep_orphan(record, str(error))
            continue
        processes.append(process)
        adopted.release_ids[name] = str(record.get("release_id"))
        if record.get("is_probation") is True:
            adopted.on_probation.add(name)
        (adopted.alive if process.is_alive else adopted.gone).append(name)
    return processes


async def repair(supervisor: Supervisor, adopted: Adopted) -> None:
    """Undo the deploy that had not switched, complete what had, start again what should run and does not.

    A shutdown that comes meanwhile has the last word: nothing is started behind it.
    """
    fleet = supervisor.fleet
    if adopted.alive or adopted.gone:
        supervisor.machinery.events.record("adopted", {"alive": adopted.alive, "gone": adopted.gone})
    for release in adopted.unfinished:
        await asyncio.gather(*(process.stop() for process in release.processes))
        # As when a deploy fails: services as they were before it.
        started = [
            service
            for name, service in fleet.services.items()
            if name in adopted.on_probation and adopted.release_ids[name] == release.release_id
        ]
        await asyncio.gather(*(service.stop() for service in started))
        if fleet.is_shutting_down:
            return
        release.apply(ReleaseEvent.GAVE_UP, fleet.around.utc())
        supervisor.machinery.events.record(
            "release failed", {"release_id": release.release_id, "error": "the daemon ended before the switch"}
        )
    for release in fleet.releases:
        if release.is_routed:
            for process in release.processes:
                process.end_probation()
        if release.state is ReleaseState.DRAINING:
            retire_in_background(fleet, release)
    active = fleet.active
    if active is not None:
        await _start_missing(fleet, active, adopted)
    prune(fleet)
    fleet.around.save()


async def _start_missing(fleet: Fleet, active: Release, adopted: Adopted) -> None:
    """Start every service, process of the active release and singleton that does not run, in the deploy's order."""
    await _start_shared(fleet, active, adopted, Policy.SERVICE, fleet.services)
    known = {process.spec.instance_id: process for process in active.processes}
    for spec in _usable(fleet, lambda config: release_specs(fleet, config, active)).values():
        process = known.get(spec.instance_id)
        reason = StartReason.CRASH
        if process is None:
            process, reason = fleet.around.create_process(spec), StartReason.DEPLOY
            active.processes.append(process)
        await _start_again(fleet, process, reason)
    await _start_shared(fleet, active, adopted, Policy.SINGLETON, fleet.singletons)


async def _start_shared(
    fleet: Fleet, active: Release, adopted: Adopted, policy: Policy, place: dict[str, ManagedProcess]
) -> None:
    for spec in _usable(fleet, lambda config: shared_specs(fleet, config, active, policy)).values():
        process = place.get(spec.process.id)
        reason = StartReason.CRASH
        if process is None:
            process, reason = fleet.around.create_process(spec), StartReason.DEPLOY
            place[spec.process.id] = process
        elif policy is Policy.SINGLETON and adopted.release_ids.get(spec.instance_id) != active.release_id:
            # The daemon ended between the switch and the replacement of this singleton.
            await process.stop()
            reason = StartReason.DEPLOY
        process.redefine(spec)
        await _start_again(fleet, process, reason)


async def _start_again(fleet: Fleet, process: ManagedProcess, reason: StartReason) -> None:
    if fleet.is_shutting_down:
        return
    if process.state in (ProcessState.STARTING, ProcessState.RUNNING):
        process.end_probation()
        return
    try:
        await process.start(reason)
    except StartFailed as error:
        fleet.around.record("process did not start", {"process": process.spec.instance_id, "error": str(error)})
    process.end_probation()
