"""What happens to a release that takes no new requests: drain, stop, forget."""

from __future__ import annotations

import asyncio

from rollbridge.config.model import Policy
from rollbridge.process.managed import ManagedProcess, ProcessState, StartFailed, StartReason
from rollbridge.release.fleet import Fleet
from rollbridge.release.release import Release
from rollbridge.release.retention import Retired, releases_to_prune
from rollbridge.release.states import ReleaseEvent, ReleaseState


def retire_in_background(fleet: Fleet, release: Release) -> asyncio.Task[None]:
    """Drain and stop ``release`` without holding up anybody; return the task that does."""
    # What a rollback was bringing back in it is not wanted any more.
    for key in [key for key in fleet.retirements if key.startswith(f"{release.key}/")]:
        fleet.retirements.pop(key).cancel()
    task = asyncio.create_task(retire(fleet, release), name=f"retire {release.key}")
    fleet.retirements[release.key] = task
    task.add_done_callback(lambda done: _forget(fleet, release, done))
    return task


def _forget(fleet: Fleet, release: Release, task: asyncio.Task[None]) -> None:
    if fleet.retirements.get(release.key) is task:
        del fleet.retirements[release.key]
    if not task.cancelled() and (error := task.exception()) is not None:
        fleet.around.record("retiring failed", {"release_id": release.release_id, "error": repr(error)})


async def retire(fleet: Fleet, release: Release) -> None:
    """Drain ``release``, then stop it: companions that need not wait at once, handoff services last."""
    record = fleet.around.record
    record("release draining", {"release_id": release.release_id})
    early = [
        asyncio.create_task(process.stop())
        for process in release.of_policy(Policy.COMPANION)
        if process.spec.process.non_blocking_drain
    ]
    remaining = remaining_drain_seconds(fleet, release)
    try:
        async with asyncio.timeout(remaining):
            await fleet.around.traffic.wait_until_idle(release.key)
    except TimeoutError:
        connections = fleet.around.traffic.connections(release.key)
        record(
            "drain timed out",
            {"release_id": release.release_id, "http": connections.http, "websocket": connections.websocket},
        )
    release.is_stopping = True
    await stop_processes(release, early)
    release.apply(ReleaseEvent.REAPED, fleet.around.utc())
    # Its last connections ended with its processes: the proxy may forget it.
    fleet.around.traffic.announce(*fleet.route())
    record("release stopped", {"release_id": release.release_id})
    prune(fleet)
    fleet.around.save()


def remaining_drain_seconds(fleet: Fleet, release: Release) -> float:
    """Return what is left of the drain, counted from when it began, whoever began it."""
    began = release.drain_started_at if release.drain_started_at is not None else fleet.around.utc()
    elapsed = max(0.0, fleet.around.utc() - began)
    return max(0.0, fleet.config.proxy.drain_timeout_seconds - elapsed)


async def stop_processes(release: Release, already_stopping: list[asyncio.Task[None]]) -> None:
    """Stop companions and proxied replicas side by side, then the handoff services they may still need."""
    services = release.of_policy(Policy.SERVICE)
    others = [process for process in release.processes if process not in services]
    await asyncio.gather(*(process.stop() for process in others), *already_stopping)
    await asyncio.gather(*(process.stop() for process in services))


def can_take_over_as_it_is(release: Release) -> bool:
    """Whether a rollback needs only to switch: it drains, nothing but early companions was stopped, and it is up."""
    is_up = all(process.state is ProcessState.RUNNING for process in release.proxied)
    return release.state is ReleaseState.DRAINING and not release.is_stopping and is_up


def revive(fleet: Fleet, release: Release) -> None:
    """End the drain of ``release``; companions that were already being stopped come back behind the switch."""
    task = fleet.retirements.pop(release.key, None)
    if task is not None:
        task.cancel()
    for process in release.of_policy(Policy.COMPANION):
        if process.spec.process.non_blocking_drain:
            back = asyncio.create_task(_bring_back(fleet, process), name=f"revive {process.spec.instance_id}")
            fleet.retirements[f"{release.key}/{process.spec.instance_id}"] = back
            back.add_done_callback(
                lambda done, key=f"{release.key}/{process.spec.instance_id}": _forget_return(fleet, key, done)  # type: ignore[misc]  # the default binds the loop's value
            )


def _forget_return(fleet: Fleet, key: str, task: asyncio.Task[None]) -> None:
    if fleet.retirements.get(key) is task:
        del fleet.retirements[key]


async def _bring_back(fleet: Fleet, process: ManagedProcess) -> None:
    await process.stop()
    try:
        await process.start(StartReason.DEPLOY)
    except StartFailed as error:
        fleet.around.record("process did not start", {"process": process.spec.instance_id, "error": str(error)})


def prune(fleet: Fleet) -> None:
    """Forget ended releases beyond the retention, and incarnations that another one of the same id has replaced.

    The directory of a release is the operator's and is never touched.
    """
    ended = [one for one in fleet.releases if one.state in (ReleaseState.STOPPED, ReleaseState.FAILED)]
    keys = {one.key for one in ended if _is_replaced(fleet, one)}
    for state in (ReleaseState.STOPPED, ReleaseState.FAILED):
        # Each state for itself: ten deploys that failed must not push out the release to roll back to.
        retired = [Retired(one.key, one.stopped_at or 0.0) for one in ended if one.state is state]
        kept = [one for one in retired if one.key not in keys]
        keys |= set(releases_to_prune(kept, fleet.config.release_retention, fleet.around.utc()))
    for release in [one for one in ended if one.key in keys]:
        fleet.releases.remove(release)
        for process in release.processes:
            process.discard()
        fleet.around.record("release pruned", {"release_id": release.release_id})


def _is_replaced(fleet: Fleet, ended: Release) -> bool:
    """Whether a good incarnation of its id came after it; a failed try never counts where any good one is kept."""
    twins = fleet.find(ended.release_id)
    good = [twin for twin in twins if twin.is_routed or twin.state is ReleaseState.STOPPED]
    if ended.state is ReleaseState.FAILED:
        return bool(good)
    return any(twins.index(twin) > twins.index(ended) for twin in good)
