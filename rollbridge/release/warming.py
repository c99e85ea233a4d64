"""Waits for a replica that was started again: it is asked again when it is healthy, not as soon as it listens."""

from __future__ import annotations

import contextlib

from rollbridge.process.managed import ManagedProcess
from rollbridge.release.health import Unhealthy, wait_until_healthy
from rollbridge.release.port_probe import strangers_on


async def until_healthy(process: ManagedProcess, host: str) -> None:
    """Return when the health check of ``process``, which has one, succeeds, however long that takes."""
    health, port = process.spec.process.health, process.spec.port
    assert health is not None
    assert port is not None

    def complaint() -> str:
        return "somebody else listens there" if strangers_on(host, port, process.tree_pids()) else ""

    while True:
        with contextlib.suppress(Unhealthy):  # its time is that of a deploy, which nobody waits for here
            await wait_until_healthy(host, port, health, complaint, lambda _: None)
            return
