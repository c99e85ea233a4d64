"""What a daemon brings up before its control socket appears: the release it was given, or the last active one."""

from __future__ import annotations

import asyncio

from rollbridge.config.issues import ConfigError
from rollbridge.daemon.errors import DaemonFailed
from rollbridge.daemon.supervisor import Supervisor
from rollbridge.release.admission import DeployRequest
from rollbridge.release.deploy import deploy
from rollbridge.release.errors import BadRequest, OperationFailed, OperationRefused
from rollbridge.release.steps import Progress, ProgressReport


def bootstrap_request(supervisor: Supervisor) -> DeployRequest | None:
    """Return which release to bring up first, None for none.

    ``--resume`` with nothing to resume starts empty: a unit that always says it must survive a first boot
    and a deliberate ``stop``.
    """
    options = supervisor.options
    if options.release_path is not None:
        return DeployRequest(options.release_path, options.release_id, options.revision)
    if not options.resume or supervisor.fleet.active is not None:
        return None  # what an earlier daemon left running needs no start, and no directory either
    last = supervisor.fleet.last_active
    if last is None:
        supervisor.machinery.events.record("nothing to resume", {"state_path": supervisor.fleet.config.state_path})
        return None
    return DeployRequest(last.release_path, last.release_id, last.revision)


async def bootstrap(supervisor: Supervisor, request: DeployRequest | None) -> None:
    """Bring up what was asked for; raise DaemonFailed when it does not come up."""
    if request is None or supervisor.fleet.is_shutting_down:
        return

    def tell(progress: Progress) -> None:
        supervisor.machinery.events.record("bootstrap", dict(progress))

    report = ProgressReport(tell, supervisor.fleet.around.clock)
    # A task of its own: a shutdown cancels the operation in hand, and that must not be the daemon.
    task = asyncio.create_task(deploy(supervisor.fleet, request, report), name="bootstrap")
    await asyncio.wait((task,))
    if task.cancelled():
        return
    error = task.exception()
    if isinstance(error, OperationFailed | OperationRefused | BadRequest | ConfigError):
        detail = error if isinstance(error, OperationFailed) else None
        raise DaemonFailed(
            f"bootstrap: {error}",
            lines=detail.lines if detail else (),
            process=detail.process if detail else "",
        ) from error
    if error is not None:
        raise error
