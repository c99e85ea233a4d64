"""``logs`` and ``events`` with ``--follow``: what is kept first, then each new one until the client leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from rollbridge.daemon.events import KEPT_EVENTS, Event, EventLog
from rollbridge.daemon.supervisor import Supervisor
from rollbridge.process.managed import ManagedProcess
from rollbridge.process.output import LogLine, OutputFollower
from rollbridge.release.errors import OperationRefused
from rollbridge.release.fleet import Fleet
from rollbridge.release.steps import Progress

Send = Callable[[Progress], None]

# Of a flood of output while the daemon goes on as other code, whoever follows it gets this much.
_MISSED_LIMIT: Final = 20_000


class Missed:
    """What has happened since this code took over from another, for those who watched that one and come back."""

    def __init__(self, events: EventLog, outputs: OutputFollower) -> None:
        self.events: deque[Event] = deque(events.last(KEPT_EVENTS), maxlen=_MISSED_LIMIT)
        self.lines: deque[tuple[str, LogLine]] = deque(maxlen=_MISSED_LIMIT)
        self._endings = (
            events.subscribe(self.events.append),
            outputs.subscribe(lambda instance_id, line: self.lines.append((instance_id, line))),
        )

    def forget(self) -> None:
        """Whoever comes back has come."""
        for end in self._endings:
            end()
        self.events.clear()
        self.lines.clear()


def _is_meant(process: ManagedProcess, name: str | None) -> bool:
    return name is None or name in (process.spec.process.id, process.spec.instance_id)


def log_entry(instance_id: str, line: LogLine) -> dict[str, object]:
    """Return one line of output as ``logs --json`` shows it."""
    return {"process": instance_id, "at": line.at, "stream": line.stream, "line": line.line}


def collect_logs(fleet: Fleet, name: str | None, limit: int) -> list[dict[str, object]]:
    """Return the last ``limit`` lines of the processes meant, merged by time; raise OperationRefused for no match."""
    meant = [process for process in fleet.all_processes() if _is_meant(process, name)]
    if name is not None and not meant and name not in fleet.config.processes:
        known = ", ".join(
            dict.fromkeys([*fleet.config.processes, *(p.spec.instance_id for p in fleet.all_processes())])
        )
        raise OperationRefused(f"no process is called {name}; there are: {known}")
    entries = [log_entry(process.spec.instance_id, line) for process in meant for line in process.last_lines(limit)]
    entries.sort(key=lambda entry: str(entry["at"]))
    return entries[-limit:] if limit else []


def missed_events(supervisor: Supervisor) -> list[Event]:
    """Return what a client has missed that watched the code before us to its end."""
    return list(supervisor.missed.events) if supervisor.missed is not None else []


def missed_lines(supervisor: Supervisor, name: str | None) -> list[dict[str, object]]:
    """Return the same of the output of the processes meant."""
    lines = supervisor.missed.lines if supervisor.missed is not None else ()
    return [log_entry(instance_id, line) for instance_id, line in lines if _is_named(supervisor, name, instance_id)]


async def follow_events(supervisor: Supervisor, kept: list[Event], send: Send) -> None:
    """Send the kept events, then each new one; ends with the daemon, or when the client leaves."""
    for event in kept:
        send({"event": event})
    unsubscribe = supervisor.machinery.events.subscribe(lambda event: send({"event": event}))
    try:
        await _until_the_end(supervisor)
    finally:
        unsubscribe()


async def follow_logs(supervisor: Supervisor, name: str | None, kept: list[dict[str, object]], send: Send) -> None:
    """Send the kept lines, then each new one of the processes meant, those that start later included."""
    for entry in kept:
        send({"log": entry})

    def heard(instance_id: str, line: LogLine) -> None:
        if _is_named(supervisor, name, instance_id):
            send({"log": log_entry(instance_id, line)})

    unsubscribe = supervisor.machinery.outputs.subscribe(heard)
    try:
        await _until_the_end(supervisor)
    finally:
        unsubscribe()


def _is_named(supervisor: Supervisor, name: str | None, instance_id: str) -> bool:
    return name in (None, instance_id) or name == _process_id(supervisor, instance_id)


def _process_id(supervisor: Supervisor, instance_id: str) -> str:
    for process in supervisor.fleet.all_processes():
        if process.spec.instance_id == instance_id:
            return process.spec.process.id
    return instance_id


async def _until_the_end(supervisor: Supervisor) -> None:
    await supervisor.ended.wait()
