"""The control commands: from a request to a flow, and from its outcome to an answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from rollbridge.config.issues import ConfigError
from rollbridge.config.model import Policy
from rollbridge.control.protocol import CommandError, Peer, is_observing
from rollbridge.daemon.intent import Intent
from rollbridge.daemon.log_stream import collect_logs, follow_events, follow_logs, missed_events, missed_lines
from rollbridge.daemon.reloading import reload
from rollbridge.daemon.succession import UpgradeRequest, refuse_strangers
from rollbridge.daemon.supervisor import Supervisor
from rollbridge.release.admission import DeployRequest
from rollbridge.release.deploy import DeployResult, deploy, rollback
from rollbridge.release.errors import BadRequest, OperationFailed, OperationRefused
from rollbridge.release.operations import restart_processes, stop_release
from rollbridge.release.steps import Progress, ProgressReport

Answer = dict[str, object]
Send = Callable[[Progress], None]
Command = Callable[[Supervisor, "Arguments", Send, Peer], Awaitable[Answer]]

_FAILED: Final = 1
_ASKED_WRONGLY: Final = 2
_REFUSED: Final = 4


class Arguments:
    """One request's fields, read with their types; a field of another type is the client's mistake."""

    def __init__(self, request: Mapping[str, object]) -> None:
        self._request = request

    def text(self, name: str) -> str | None:
        """Return a string field, None when it is absent."""
        value = self._request.get(name)
        if value is not None and not isinstance(value, str):
            raise CommandError(f"{name} must be a string, not {type(value).__name__}", _ASKED_WRONGLY)
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean field, False when it is absent."""
        value = self._request.get(name, False)
        if not isinstance(value, bool):
            raise CommandError(f"{name} must be true or false", _ASKED_WRONGLY)
        return value

    def table(self, name: str) -> Mapping[str, object]:
        """Return an object field, an empty one when it is absent."""
        value = self._request.get(name, {})
        if not isinstance(value, dict):
            raise CommandError(f"{name} must be an object, not {type(value).__name__}", _ASKED_WRONGLY)
        return value

    def count(self, name: str, default: int) -> int:
        """Return a whole number of at least 0."""
        value = self._request.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise CommandError(f"{name} must be a whole number, 0 or more", _ASKED_WRONGLY)
        return value


def command_handler(supervisor: Supervisor) -> Callable[[dict[str, object], Send, Peer], Awaitable[Answer]]:
    """Return what the control server calls for every request."""

    async def handle(request: dict[str, object], send: Send, peer: Peer) -> Answer:
        name = request.get("command")
        command = COMMANDS.get(name) if isinstance(name, str) else None
        if command is None:
            raise CommandError(
                f"no command is called {str(name)[:40]!r}; there are: {', '.join(sorted(COMMANDS))}", _ASKED_WRONGLY
            )
        try:
            answer = await command(supervisor, Arguments(request), send, peer)
        except OperationRefused as error:
            raise CommandError(str(error), _REFUSED) from error
        except BadRequest as error:
            raise CommandError(str(error), _ASKED_WRONGLY) from error
        except ConfigError as error:
            problems = [
                {"where": issue.where, "line": issue.line, "message": issue.message, "fix": issue.fix}
                for issue in error.issues
            ]
            raise CommandError(str(error), _ASKED_WRONGLY, {"problems": problems}) from error
        except OperationFailed as error:
            active = supervisor.fleet.active
            detail: dict[str, object] = {
                "phase": error.phase,
                "process": error.process,
                "probe": error.probe,
                "lines": list(error.lines),
                "active_release_id": active.release_id if active else None,
            }
            raise CommandError(str(error), _FAILED, detail) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if supervisor.fleet.is_shutting_down and task is not None and task.uncancel() == 0:
                if is_observing(request):
                    return {"status": "success"}  # it was to watch until the end
                raise CommandError(f"{name} was given up: the daemon is shutting down", _REFUSED) from None
            raise
        return {"status": "success", **answer}

    return handle


async def _ping(supervisor: Supervisor, arguments: Arguments, send: Send, peer: Peer) -> Answer:
    runtime = supervisor.runtime
    return {
        "pid": os.getpid(),
        "version": runtime.version,
        "digest": runtime.digest,
        "application": supervisor.fleet.config.application,
    }


async def _status(supervisor: Supervisor, arguments: Arguments, send: Send, peer: Peer) -> Answer:
    return {"result": supervisor.status()}


def _report(supervisor: Supervisor, send: Send) -> ProgressReport:
    return ProgressReport(send, supervisor.fleet.around.clock)


def _result(result: DeployResult) -> Answer:
    return {
        "active_release_id": result.active_release_id,
        "previous_release_id": result.previous_release_id,
        "changed": result.changed,
    }


async def _deploy(supervisor: Supervisor, arguments: Arguments, send: Send, peer: Peer) -> Answer:
    path = arguments.text("release_path")
    if not path or not path.startswith("/"):
        raise CommandError("deploy needs release_path, an absolute path", _ASKED_WRONGLY)
    request = DeployRequest(
        release_path=path,
        release_id=arguments.text("release_id"),
        revision=arguments.text("revision"),
        wait=arguments.flag("wait"),
        force=arguments.flag("force"),
    )
    _record_request(supervisor, "deploy", peer, {"release_path": path, "release_id": request.release_id})
    try:
        result = await deploy(supervisor.fleet, request, _report(supervisor, send))
    finally:
        supervisor.tidy_soon()
    supervisor.adopt_settings()
    return _result(result)


async def _rollback(supervisor: Supervisor, arguments: Arguments, send: Send, peer: Peer) -> Answer:
    release_id = arguments.text("release_id")
    _record_request(supervisor, "rollback", peer, {"release_id": release_id})
    try:
        result = await rollback(supervisor.fleet, release_id, arguments.flag("wait"), _report(supervisor, send))
    finally:
        supervisor.tidy_soon()
    supervisor.adopt_settings()
    return _result(result)


async def _stop(supervisor: Supervisor, arguments: Arguments, send: Send, peer: Peer) -> Answer:
    _record_request(supervisor, "stop", peer, {"release_id": arguments.text("release_id")})
    release = await stop_release(supervisor.fleet, arguments.text("release_id"))
    return {"release_id": release.release_id}


async def _restart(supervisor: Supervisor, arguments: Arguments, send: Send, peer: Peer) -> Answer:
    policy_name = arguments.text("policy")
    known = [policy.value for policy in Policy]
    if policy_name is not None and policy_name not in known:
        raise CommandError(f"policy must be one of {', '.join(known)}, not {policy_name!r}", _ASKED_WRONGLY)
    policy = Policy(policy_name) if policy_name is not None else None
    _record_request(supervisor, "restart", peer, {"process": arguments.text("process"), "policy": policy_name})
    return {"restarted": await restart_processes(supervisor.fleet, arguments.text("process"), policy)}


async def _reload(supervisor: Supervisor, arguments: Arguments, send: Send, peer: Peer) -> Answer:
    _record_request(supervisor, "reload", peer, {})
    return {"changed": await reload(supervisor)}


async def _shutdown(supervisor: Supervisor, arguments: Arguments, send: Send, peer: Peer) -> Answer:
    _record_request(supervisor, "shutdown", peer, {})
    supervisor.intent = Intent.DOWN
    supervisor.save_now()  # also when this daemon is killed half-way through
    supervisor.begin_shutdown()
    await supervisor.released.wait()
    return {"pid": os.getpid(), **({"state_error": supervisor.save_error} if supervisor.save_error else {})}


async def _events(supervisor: Supervisor, arguments: Arguments, send: Send, peer: Peer) -> Answer:
    events = supervisor.machinery.events
    kept = missed_events(supervisor) if arguments.flag("resume") else events.last(arguments.count("limit", 100))
    if arguments.flag("follow"):
        await follow_events(supervisor, kept, send)
    return {"events": kept}


async def _logs(supervisor: Supervisor, arguments: Arguments, send: Send, peer: Peer) -> Answer:
    process = arguments.text("process")
    if arguments.flag("resume"):
        lines = missed_lines(supervisor, process)
    else:
        lines = collect_logs(supervisor.fleet, process, arguments.count("lines", 100))
    if arguments.flag("follow"):
        await follow_logs(supervisor, process, lines, send)
    return {"logs": lines}


async def _upgrade(supervisor: Supervisor, arguments: Arguments, send: Send, peer: Peer) -> Answer:
    refuse_strangers(peer, "an upgrade")
    python, target, digest = (arguments.text(name) or "" for name in ("python", "target", "digest"))
    if not (python.startswith("/") and target.startswith("/") and digest):
        raise CommandError("upgrade needs python and target, absolute paths, and a digest", _ASKED_WRONGLY)
    request = UpgradeRequest(python, target, arguments.flag("is_zipapp"), digest)
    _record_request(supervisor, "upgrade", peer, {"target": target, "digest": digest})
    report = _report(supervisor, send)

    def tell(phase: str, message: str) -> None:
        send({"phase": phase, "message": message, "seconds": report.seconds})

    return await supervisor.succession.upgrade(request, arguments.flag("wait"), tell)


async def _give_way(supervisor: Supervisor, arguments: Arguments, send: Send, peer: Peer) -> Answer:
    refuse_strangers(peer, "a takeover")
    _record_request(supervisor, "give-way", peer, {})
    await supervisor.succession.give_way(arguments.table("settings"), arguments.flag("wait"))


def _record_request(supervisor: Supervisor, command: str, peer: Peer, data: dict[str, object]) -> None:
    given = {name: value for name, value in data.items() if value is not None}
    supervisor.machinery.events.record(f"{command} requested", {**given, "pid": peer.pid, "uid": peer.uid})


COMMANDS: Final[Mapping[str, Command]] = {
    "deploy": _deploy,
    "events": _events,
    "give-way": _give_way,
    "logs": _logs,
    "ping": _ping,
    "reload": _reload,
    "restart": _restart,
    "rollback": _rollback,
    "shutdown": _shutdown,
    "status": _status,
    "stop": _stop,
    "upgrade": _upgrade,
}
