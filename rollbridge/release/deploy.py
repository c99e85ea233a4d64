"""The deploy and the rollback: refuse, reload, start, wait until healthy, switch, retire."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from rollbridge.config.issues import ConfigError
from rollbridge.config.launch import TemplateError
from rollbridge.config.model import Config, Policy
from rollbridge.process.managed import ManagedProcess, ProcessState, StartFailed, StartReason
from rollbridge.release.admission import DeployRequest, already_active, check_names, identify, rollback_target
from rollbridge.release.errors import OperationFailed
from rollbridge.release.fleet import Fleet, ReleaseIdentity
from rollbridge.release.release import Release
from rollbridge.release.reload import acceptable_config
from rollbridge.release.retire import can_take_over_as_it_is, prune, retire_in_background, revive
from rollbridge.release.starting import (
    allocate_release_ports,
    allocate_shared_ports,
    release_specs,
    shared_specs,
)
from rollbridge.release.states import ReleaseEvent, ReleaseState
from rollbridge.release.steps import ProgressReport, Step
from rollbridge.release.waiting import SHOWN_LINES, wait_until_release_is_healthy


@dataclass(frozen=True, slots=True)
class DeployResult:
    """Which release serves now, and which did before."""

    active_release_id: str
    previous_release_id: str | None
    changed: bool


async def deploy(fleet: Fleet, request: DeployRequest, report: ProgressReport) -> DeployResult:
    """Bring up the requested release beside the active one and switch to it.

    Raises OperationRefused (nothing tried), BadRequest and ConfigError (asked wrongly), OperationFailed
    (tried; the active release is the same as before, unless the message says otherwise).
    """
    identity = identify(request)
    report.release_id = identity.release_id
    async with fleet.exclusive("deploy", identity.release_id, request.wait), _failure_kept(fleet, report):
        if not request.force and already_active(fleet, identity):
            report.tell(Step.DONE, f"release {identity.release_id} is already active")
            return DeployResult(identity.release_id, identity.release_id, changed=False)
        config = reload(fleet, report)
        return await bring_up(fleet, config, identity, report, "deploy")


async def rollback(fleet: Fleet, release_id: str | None, wait: bool, report: ProgressReport) -> DeployResult:
    """Switch back to a retained release, by default the most recently retired; raises as ``deploy`` does.

    One that still drains is re-activated as it is: nothing restarts, its connections live on.
    """
    async with fleet.exclusive("rollback", release_id or "", wait), _failure_kept(fleet, report):
        target = rollback_target(fleet, release_id)
        report.release_id = target.release_id
        if target is fleet.active:
            report.tell(Step.DONE, f"release {target.release_id} is already active")
            return DeployResult(target.release_id, target.release_id, changed=False)
        config = reload(fleet, report)
        if can_take_over_as_it_is(target):
            return await reactivate(fleet, config, target, report)
        identity = ReleaseIdentity(target.release_id, target.release_path, target.revision)
        return await bring_up(fleet, config, identity, report, "rollback")


@contextlib.asynccontextmanager
async def _failure_kept(fleet: Fleet, report: ProgressReport) -> AsyncIterator[None]:
    """Keep why the operation failed, for ``status``; forget the last failure when one succeeds."""
    try:
        yield
    except (OperationFailed, ConfigError, TemplateError) as error:
        detail = error if isinstance(error, OperationFailed) else None
        fleet.last_failure = {
            "at": fleet.around.utc(),
            "release_id": report.release_id,
            "phase": (detail.phase if detail else "") or report.step.value,
            "message": str(error),
            "process": detail.process if detail else "",
            "probe": detail.probe if detail else "",
            "lines": list(detail.lines) if detail else [],
        }
        fleet.around.record("deploy failed", {"release_id": report.release_id, "error": str(error)})
        fleet.around.save()
        raise
    else:
        fleet.last_failure = None


def reload(fleet: Fleet, report: ProgressReport) -> Config:
    """Read the config again; raise ConfigError when it is broken, OperationRefused when it changed too much."""
    report.tell(Step.RELOAD, "reading the configuration")
    config = acceptable_config(fleet)
    fleet.around.passed(Step.RELOAD, "")
    return config


async def bring_up(
    fleet: Fleet, config: Config, identity: ReleaseIdentity, report: ProgressReport, cause: str
) -> DeployResult:
    """Start the release, wait until it is healthy, switch to it, and let the old one go."""
    previous = fleet.active
    check_names(config, identity)
    try:
        candidate = admit(fleet, config, identity, report)
    except OperationFailed as error:
        raise _with_standing(error, previous, report) from error
    started_services: list[ManagedProcess] = []
    try:
        check_definitions(fleet, config, candidate)
        await start_services(fleet, config, candidate, report, started_services)
        await start_release(fleet, config, candidate, report)
        fleet.around.passed(Step.START, "")
        await wait_until_release_is_healthy(fleet, config, candidate, started_services, report)
        fleet.around.passed(Step.HEALTH, "")
        await switch(fleet, candidate, previous, report)
        check_still_up(candidate, report)
    except BaseException as error:
        await asyncio.shield(undo(fleet, candidate, previous, started_services, report, error))
        if isinstance(error, OperationFailed | TemplateError):
            raise _with_standing(error, previous, report) from error
        raise
    confirm(fleet, candidate)
    fleet.config = config
    return await settle(fleet, candidate, previous, report, cause)


def _with_standing(
    error: OperationFailed | TemplateError, previous: Release | None, report: ProgressReport
) -> OperationFailed:
    """Return ``error`` with a last sentence that says where the operator stands."""
    text = f"{error}. " + (f"Release {previous.release_id} is still serving." if previous else "No release is serving.")
    if isinstance(error, TemplateError):
        return OperationFailed(text, phase=report.step.value)
    return OperationFailed(text, phase=error.phase, process=error.process, probe=error.probe, lines=error.lines)


def check_definitions(fleet: Fleet, config: Config, release: Release) -> None:
    """Raise TemplateError when something is not to be defined that starts only behind the switch, too late to undo."""
    for policy in (Policy.SERVICE, Policy.SINGLETON):
        shared_specs(fleet, config, release, policy)


async def reactivate(fleet: Fleet, config: Config, target: Release, report: ProgressReport) -> DeployResult:
    """Switch back to a release that still drains, as it is."""
    previous = fleet.active
    try:
        check_definitions(fleet, config, target)
    except TemplateError as error:
        raise _with_standing(error, previous, report) from error
    revive(fleet, target)
    await switch(fleet, target, previous, report)
    confirm(fleet, target)
    fleet.config = config
    return await settle(fleet, target, previous, report, "rollback")


async def settle(
    fleet: Fleet, release: Release, previous: Release | None, report: ProgressReport, cause: str
) -> DeployResult:
    """After the switch: services, singletons, the old release, and what need not be kept any more."""
    refresh_services(fleet, release, report)
    fleet.around.record(
        "release activated",
        {
            "release_id": release.release_id,
            "previous_release_id": previous.release_id if previous else None,
            "cause": cause,
            "seconds": report.seconds,
        },
    )
    try:
        await replace_singletons(fleet, release, report)
    finally:
        if previous is not None and previous is not release:
            report.tell(Step.RETIRE, f"release {previous.release_id} drains in the background")
            retire_in_background(fleet, previous)
        fleet.around.passed(Step.RETIRE, "")
        prune(fleet)
        fleet.around.save_now()
    report.tell(Step.DONE, f"release {release.release_id} is active")
    fleet.around.passed(Step.DONE, "")
    return DeployResult(release.release_id, previous.release_id if previous else None, changed=True)


def admit(fleet: Fleet, config: Config, identity: ReleaseIdentity, report: ProgressReport) -> Release:
    """Give the candidate its ports and its place; raise OperationFailed when there are no ports left."""
    report.tell(Step.PORTS, "choosing ports")
    allocate_shared_ports(fleet, config)
    release = Release(
        key=fleet.new_key(identity.release_id),
        release_id=identity.release_id,
        release_path=identity.release_path,
        revision=identity.revision,
        upstream_host=config.proxy.upstream_host,
        ports=allocate_release_ports(fleet, config),
    )
    fleet.releases.append(release)
    fleet.around.save_now()  # known before anything of it is started: what is half done must be seen to be
    fleet.around.passed(Step.PORTS, "")
    return release


async def start_services(
    fleet: Fleet, config: Config, candidate: Release, report: ProgressReport, started: list[ManagedProcess]
) -> None:
    """Start every persistent service that does not run; add those to ``started``."""
    for spec in shared_specs(fleet, config, candidate, Policy.SERVICE):
        service = fleet.services.get(spec.process.id)
        if service is None:
            service = fleet.services[spec.process.id] = fleet.around.create_process(spec)
        elif service.state in (ProcessState.STARTING, ProcessState.RUNNING):
            continue
        else:
            service.redefine(spec)
        started.append(service)
        await _start(fleet, service, report)


async def start_release(fleet: Fleet, config: Config, candidate: Release, report: ProgressReport) -> None:
    """Start the release's own processes: handoff services, companions, proxied replicas."""
    for spec in release_specs(fleet, config, candidate):
        process = fleet.around.create_process(spec)
        candidate.processes.append(process)
        await _start(fleet, process, report)


async def _start(fleet: Fleet, process: ManagedProcess, report: ProgressReport) -> None:
    report.tell(Step.START, f"starting {process.spec.instance_id}", process.spec.instance_id)
    try:
        await process.start(StartReason.DEPLOY)
    except StartFailed as error:
        raise OperationFailed(
            f"release {report.release_id} did not start: {error}",
            phase=Step.START.value,
            process=process.spec.instance_id,
        ) from error
    fleet.around.passed(Step.START, process.spec.instance_id)


async def switch(fleet: Fleet, release: Release, previous: Release | None, report: ProgressReport) -> None:
    """Send new requests to ``release``; on return every worker has acknowledged it."""
    report.tell(Step.SWITCH, f"switching traffic to {release.release_id}")
    now = fleet.around.utc()
    release.apply(ReleaseEvent.SWITCHED, now)
    if previous is not None and previous is not release:
        previous.apply(ReleaseEvent.RETIRED, now)
    await fleet.around.traffic.switch(*fleet.route())
    fleet.around.passed(Step.SWITCH, "")


def check_still_up(candidate: Release, report: ProgressReport) -> None:
    """Raise OperationFailed when a proxied process has ended since it was healthy: the old release is still whole."""
    for process in candidate.proxied:
        if process.state is ProcessState.FAILED:
            raise OperationFailed(
                f"release {report.release_id} did not stay up: {process.failure}",
                phase=report.step.value,
                process=process.spec.instance_id,
                lines=[line.line for line in process.last_lines(SHOWN_LINES)],
            )


def confirm(fleet: Fleet, release: Release) -> None:
    """From here on the switch is not undone: ``release`` is what this daemon, and a next one, keeps up."""
    for process in release.processes:
        process.end_probation()
    fleet.last_active = ReleaseIdentity(release.release_id, release.release_path, release.revision)
    # Before anything of the old release is stopped: until this is written, a next daemon might go back to it.
    fleet.around.save_now()
    fleet.around.passed(Step.CONFIRM, "")


def refresh_services(fleet: Fleet, release: Release, report: ProgressReport) -> None:
    """Let the next restart of every service use the new release's definition."""
    specs = shared_specs(fleet, fleet.config, release, Policy.SERVICE)
    if specs:
        report.tell(Step.SERVICES, "refreshing the definitions of services")
    for spec in specs:
        service = fleet.services[spec.process.id]
        service.redefine(spec)
        service.end_probation()
    fleet.around.passed(Step.SERVICES, "")


async def replace_singletons(fleet: Fleet, release: Release, report: ProgressReport) -> None:
    """Stop each old singleton, then start the new one; raise OperationFailed when one does not start.

    All are tried: one that fails must not keep the others from running.
    """
    failures = []
    for spec in shared_specs(fleet, fleet.config, release, Policy.SINGLETON):
        report.tell(Step.SINGLETONS, f"replacing singleton {spec.process.id}", spec.process.id)
        singleton = fleet.singletons.get(spec.process.id)
        if singleton is None:
            singleton = fleet.singletons[spec.process.id] = fleet.around.create_process(spec)
        else:
            await singleton.stop()
            fleet.around.passed(Step.SINGLETONS, f"{spec.process.id} stopped")
            singleton.redefine(spec)
        try:
            await singleton.start(StartReason.DEPLOY)
        except StartFailed as error:
            failures.append(f"singleton {spec.process.id} did not start: {error}")
        singleton.end_probation()
        fleet.around.passed(Step.SINGLETONS, f"{spec.process.id} started")
    fleet.around.passed(Step.SINGLETONS, "")
    if failures:
        raise OperationFailed(
            f"{'; '.join(failures)}. Traffic is already on release {release.release_id}; mend the command, then "
            f"run rollbridge restart, or rollbridge rollback",
            phase=Step.SINGLETONS.value,
        )


async def undo(
    fleet: Fleet,
    candidate: Release,
    previous: Release | None,
    started_services: list[ManagedProcess],
    report: ProgressReport,
    cause: BaseException,
) -> None:
    """Stop everything that this deploy started, services included, and put the route back."""
    failed_step = report.step
    report.tell(Step.UNDO, f"stopping what release {candidate.release_id} started")
    now = fleet.around.utc()
    if candidate.state is ReleaseState.ACTIVE:
        # The switch itself failed half-way: whoever acknowledged must go back to the old release.
        candidate.apply(ReleaseEvent.RETIRED, now)
        if previous is not None:
            previous.apply(ReleaseEvent.SWITCHED, now)
        await fleet.around.traffic.switch(*fleet.route())
    fleet.around.record(
        "release failed", {"release_id": candidate.release_id, "phase": failed_step.value, "error": str(cause)}
    )
    started = [*candidate.processes, *started_services]
    ending = asyncio.create_task(_end_candidate(fleet, candidate, started), name=f"undo {candidate.key}")
    fleet.retirements[candidate.key] = ending
    ending.add_done_callback(lambda _: fleet.retirements.pop(candidate.key, None))
    # A process that may take for ever must not keep the next deploy out: it ends behind our back.
    is_endless = any(process.spec.process.graceful_stop_seconds is None for process in started)
    await asyncio.wait((ending,), timeout=fleet.config.proxy.force_stop_timeout_seconds if is_endless else None)
    if not ending.done():
        report.tell(Step.UNDO, f"release {candidate.release_id} goes on stopping in the background")


async def _end_candidate(fleet: Fleet, candidate: Release, started: list[ManagedProcess]) -> None:
    await asyncio.gather(*(process.stop() for process in started))
    candidate.apply(ReleaseEvent.GAVE_UP, fleet.around.utc())
    prune(fleet)
    fleet.around.save()
