"""Waits for a candidate: healthy, or the first sign that it will never be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from rollbridge.config.model import Config, HealthConfig, Policy
from rollbridge.process.exits import describe_exit
from rollbridge.process.managed import ManagedProcess
from rollbridge.release.errors import OperationFailed
from rollbridge.release.fleet import Fleet
from rollbridge.release.health import ProbeAnswer, Unhealthy, wait_until_healthy
from rollbridge.release.port_probe import describe_holder, strangers_on
from rollbridge.release.release import Release
from rollbridge.release.steps import ProgressReport, Step

SHOWN_LINES = 20
_QUIET_SECONDS = 1.0


async def wait_until_release_is_healthy(
    fleet: Fleet, config: Config, candidate: Release, services: list[ManagedProcess], report: ProgressReport
) -> None:
    """Return when every proxied replica is healthy; raise OperationFailed as soon as one cannot be.

    A proxied process that exits at all has failed. A companion or a service has when it exits with an
    error; one that ends well is started again by its restart policy like at any other time.
    """
    last_answers: dict[str, ProbeAnswer] = {}
    waits: list[Coroutine[Any, Any, None]] = []
    for process in candidate.proxied:
        health = process.spec.process.health
        report.tell(
            Step.HEALTH,
            f"waiting until {process.spec.instance_id} is healthy"
            + (f" (GET {health.path} on port {process.spec.port})" if health else " (no health check)"),
            process.spec.instance_id,
        )
        if health is not None:
            waits.append(_healthy(config, process, health, report, last_answers))
    exits = [_until_exit(process, report, last_answers) for process in (*candidate.processes, *services)]
    await first_failure_or_all(waits, exits)
    for process in candidate.proxied:
        fleet.around.record("process healthy", {"process": process.spec.instance_id, "seconds": report.seconds})


async def first_failure_or_all(
    waits: list[Coroutine[Any, Any, None]], watches: list[Coroutine[Any, Any, None]]
) -> None:
    """Return when all ``waits`` have; raise what the first of either raises. ``watches`` only ever raise."""
    watching = [asyncio.ensure_future(watch) for watch in watches]
    waiting: asyncio.Future[Any] = asyncio.gather(*waits)
    try:
        # One turn for the watches before anything counts as success: an exit that is already known wins.
        await asyncio.sleep(0)
        pending: set[asyncio.Future[Any]] = {waiting, *watching}
        while not waiting.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for one in done - {waiting}:
                one.result()
        for one in watching:
            if one.done():
                one.result()
        waiting.result()
    finally:
        for one in (waiting, *watching):
            one.cancel()
        await asyncio.gather(waiting, *watching, return_exceptions=True)


async def _healthy(
    config: Config,
    process: ManagedProcess,
    health: HealthConfig,
    report: ProgressReport,
    last_answers: dict[str, ProbeAnswer],
) -> None:
    host, port = config.proxy.upstream_host, process.spec.port
    assert port is not None
    name = process.spec.instance_id
    reported, began = "", report.seconds

    def heard(answer: ProbeAnswer) -> None:
        nonlocal reported
        last_answers[name] = answer
        # An app that still boots refuses connections for a moment; that is no news.
        is_news = report.seconds - began >= _QUIET_SECONDS and answer.reason != reported
        if not answer.is_healthy and is_news:
            reported = answer.reason
            report.tell(Step.HEALTH, f"{name} is not healthy yet: {answer.reason}", name)

    try:
        await wait_until_healthy(host, port, health, _ownership(process, host, port), heard)
    except Unhealthy as error:
        raise OperationFailed(
            f"release {report.release_id} did not get healthy: {name} after {health.timeout_seconds:g} s: {error}",
            phase=Step.HEALTH.value,
            process=name,
            probe=str(error),
            lines=_lines(process),
        ) from error
    report.tell(Step.HEALTH, f"{name} is healthy", name)


def _ownership(process: ManagedProcess, host: str, port: int) -> Callable[[], str]:
    def complaint() -> str:
        strangers = strangers_on(host, port, process.tree_pids())
        if not strangers:
            return ""
        return f"{describe_holder(host, port)}, which does not belong to {process.spec.instance_id}"

    return complaint


async def _until_exit(process: ManagedProcess, report: ProgressReport, last_answers: dict[str, ProbeAnswer]) -> None:
    """Raise OperationFailed when ``process`` exits in a way that fails the deploy."""
    name = process.spec.instance_id
    status = await process.wait_exit()
    if process.spec.process.policy is not Policy.PROXIED and status.code == 0:
        return
    how = describe_exit(status, is_shell_command=isinstance(process.spec.process.command, str))
    answer = last_answers.get(name)
    raise OperationFailed(
        f"release {report.release_id} did not start: {name} {how}",
        phase=report.step.value,
        process=name,
        probe=answer.reason if answer else "",
        lines=_lines(process),
    )


def _lines(process: ManagedProcess) -> list[str]:
    return [line.line for line in process.last_lines(SHOWN_LINES)]
