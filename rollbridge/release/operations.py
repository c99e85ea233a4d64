"""Stop, restart and shutdown: what an operator does besides deploying."""

from __future__ import annotations

import asyncio

from rollbridge.config.model import Policy
from rollbridge.process.managed import ManagedProcess, ProcessState, StartFailed, StartReason
from rollbridge.release.errors import OperationFailed, OperationRefused
from rollbridge.release.fleet import Fleet
from rollbridge.release.release import Release
from rollbridge.release.retire import retire_in_background, stop_processes
from rollbridge.release.states import ReleaseEvent, ReleaseState


async def stop_release(fleet: Fleet, release_id: str | None) -> Release:
    """Take ``release_id`` (default: the active release) out of traffic, drain it and stop it; return it.

    The turn is given back before the drain ends, so that a process that takes its time, even for
    ever, never keeps the next deploy out. The singletons run the active release's code and stop with it.
    """
    async with fleet.exclusive("stop", release_id or ""):
        release = _stoppable(fleet, release_id)
        ending: list[asyncio.Task[None]] = []
        if release is fleet.active:
            fleet.idle_reason, fleet.last_active = "stopped", None
            release.apply(ReleaseEvent.RETIRED, fleet.around.utc())
            await fleet.around.traffic.switch(*fleet.route())
            ending += [asyncio.create_task(singleton.stop()) for singleton in fleet.singletons.values()]
        ending.append(fleet.retirements.get(release.key) or retire_in_background(fleet, release))
        fleet.around.record("stop requested", {"release_id": release.release_id})
        fleet.around.save_now()
    await asyncio.gather(*(asyncio.shield(task) for task in ending), return_exceptions=True)
    if release.state is ReleaseState.ACTIVE:
        raise OperationFailed(
            f"release {release.release_id} is active again: a rollback came before it was stopped", phase="stop"
        )
    return release


def _stoppable(fleet: Fleet, release_id: str | None) -> Release:
    if release_id is None:
        if fleet.active is None:
            raise OperationRefused("no release is active, so there is nothing to stop")
        return fleet.active
    alive = [release for release in fleet.find(release_id) if release.is_routed]
    if not alive:
        known = ", ".join(dict.fromkeys(one.release_id for one in fleet.releases if one.is_routed)) or "none"
        raise OperationRefused(f"release {release_id} is not running; those that are: {known}")
    return alive[-1]


async def restart_processes(fleet: Fleet, process_id: str | None, policy: Policy | None) -> list[str]:
    """Stop and start the processes meant, side by side; return their instance ids.

    Raises OperationRefused for the proxied process (a deploy replaces it without losing requests) and
    when nothing matches, OperationFailed when one did not start again.
    """
    async with fleet.exclusive("restart", process_id or (policy.value if policy else "")):
        chosen = _restartable(fleet, process_id, policy)
        outcomes = await asyncio.gather(*(_restart(process) for process in chosen))
        failures = [outcome for outcome in outcomes if outcome]
        fleet.around.save()
        if failures:
            raise OperationFailed("; ".join(failures), phase="restart")
        return [process.spec.instance_id for process in chosen]


def _restartable(fleet: Fleet, process_id: str | None, policy: Policy | None) -> list[ManagedProcess]:
    if process_id is not None and process_id not in fleet.config.processes:
        known = ", ".join(fleet.config.processes)
        raise OperationRefused(f"no process is called {process_id}; the configuration has: {known}")
    if policy is Policy.PROXIED or (
        process_id is not None and fleet.config.processes[process_id].policy is Policy.PROXIED
    ):
        raise OperationRefused(
            "the proxied process is not restarted in place, that would lose requests: "
            "deploy the same release again with --force"
        )
    active = fleet.active
    candidates = [*fleet.services.values(), *fleet.singletons.values(), *(active.processes if active else [])]
    chosen = [
        process
        for process in candidates
        if process.spec.process.policy is not Policy.PROXIED
        and process.state is not ProcessState.STOPPED
        and (process_id is None or process.spec.process.id == process_id)
        and (policy is None or process.spec.process.policy is policy)
    ]
    if not chosen:
        raise OperationRefused("nothing that matches is running, so there is nothing to restart")
    return chosen


async def _restart(process: ManagedProcess) -> str:
    try:
        await process.restart(StartReason.MANUAL)
    except StartFailed as error:
        return f"{process.spec.instance_id} did not start again: {error}"
    return ""


def begin_ending(fleet: Fleet) -> None:
    """Let no operation begin any more, and make the one in hand give up; what it started is undone by itself."""
    fleet.is_shutting_down = True
    operation = fleet.operation
    if operation is not None and operation.task is not None:
        operation.task.cancel()


async def stop_everything(fleet: Fleet) -> None:
    """Stop all that runs, after ``begin_ending``: companions and proxied first, services last."""
    operation = fleet.operation
    for task in list(fleet.retirements.values()):
        task.cancel()
    alive = [release for release in fleet.releases if release.is_alive]
    await asyncio.gather(
        *(singleton.stop() for singleton in fleet.singletons.values()),
        *(stop_processes(release, []) for release in alive),
    )
    await asyncio.gather(*(service.stop() for service in fleet.services.values()))
    if operation is not None and operation.task is not None:
        await asyncio.gather(operation.task, return_exceptions=True)
    for release in alive:
        if release.is_alive:
            event = ReleaseEvent.REAPED if release.is_routed else ReleaseEvent.GAVE_UP
            release.apply(event, fleet.around.utc())


async def kill_everything(fleet: Fleet) -> None:
    """End every process tree at once: the operator has asked a second time.

    A failed process too: its leader is gone, what outlived that may not be.
    """
    left = [process for process in fleet.all_processes() if process.state is not ProcessState.STOPPED]
    await asyncio.gather(*(process.kill() for process in left))
