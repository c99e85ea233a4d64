"""``predeploy-cleanup``: ends what the first deploy replaces, and does not believe it before it has looked."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rollbridge.config.model import Config, LegacyTakeoverConfig
from rollbridge.process.table import ProcessRow, ProcessTable
from rollbridge.release.port_probe import describe_holder, probe_port
from rollbridge.release.ports import PortFact
from rollbridge.takeover.ending import Survivor, Target, end_trees
from rollbridge.takeover.legacy import Member, Plan, Protection, Sighting, find_again, plan_stop, still_there
from rollbridge.takeover.sighting import hint, look, protection, systemd_unit
from rollbridge.takeover.stop_commands import StopCommand, list_stop_commands, run_stop

# So long what was stopped is watched for: supervisors start again at once, or after a second.
WATCH_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.1
_PORT_SECONDS: Final = 5.0  # a listener whose process has ended is gone with it; a helper of it may take a moment

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Returned:
    """A process that was stopped and has been started again; ``by`` ends a sentence."""

    pid: int
    command: str
    why: str
    by: str

    def document(self) -> dict[str, object]:
        return {"pid": self.pid, "command": self.command, "why": self.why, "started_again": self.by}


@dataclass(frozen=True, slots=True)
class Cleaned:
    """The outcome; all is well when everything but ``stopped`` is empty."""

    stopped: tuple[Member, ...] = ()
    failed_commands: tuple[str, ...] = ()
    survivors: tuple[Survivor, ...] = ()
    returned: tuple[Returned, ...] = ()
    port_holder: str = ""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is about to be done: nothing has been yet."""

    commands: tuple[StopCommand, ...]
    plan: Plan
    seen: Sighting


class Cleanup:
    """One run over one config. ``daemon_pids`` are daemons that must not be touched."""

    def __init__(self, config: Config, daemon_pids: Sequence[int], tell: Tell) -> None:
        self._config = config
        self._legacy = config.legacy_takeover or LegacyTakeoverConfig((), (), 0.0)
        self._daemon_pids = daemon_pids
        self._tell = tell

    def prepare(self) -> Prepared:
        """Look, and decide what would be stopped."""
        seen = look(self._legacy)
        plan = plan_stop(seen, self._legacy, self._protection(seen.table).why)
        return Prepared(tuple(list_stop_commands(self._legacy)), plan, seen)

    def carry_out(self, is_port_ours: bool) -> Cleaned:
        """Stop everything, verify, and watch for what comes back.

        ``is_port_ours``: a daemon of ours has ``proxy.port`` already.
        """
        failed = self._run_commands()
        if failed:
            return Cleaned(failed_commands=failed)
        prepared = self.prepare()  # what the commands have stopped is not there any more
        plan = prepared.plan
        survivors: list[Survivor] = []
        if plan.members:
            self._tell(f"stopping {len(plan.members)} process(es)")
            survivors = end_trees([self._target(plan)])
        if survivors:
            return Cleaned(plan.members, survivors=tuple(survivors))
        has_stopped = bool(plan.members or prepared.commands)
        holder = "" if is_port_ours else self._wait_for_port(_PORT_SECONDS if has_stopped else 0.0)
        returned = self._watch(prepared) if self._is_anything_configured() else ()
        if holder and not returned:
            return Cleaned(plan.members, port_holder=holder)
        return Cleaned(plan.members, returned=returned)

    def _run_commands(self) -> tuple[str, ...]:
        failed = []
        for command in list_stop_commands(self._legacy):
            self._tell(f"running {command.text}")
            complaint = run_stop(command)
            if complaint:
                failed.append(f"{command.what}: {complaint}")
        return tuple(failed)

    def _target(self, plan: Plan) -> Target:
        known = plan.identities

        def members(table: ProcessTable, seen_before: Mapping[int, int]) -> Sequence[ProcessRow]:
            return still_there(table, {**known, **seen_before}, self._protection(table).why)

        return Target("legacy", members, signal.SIGTERM, self._legacy.force_stop_timeout_seconds)

    def _protection(self, table: ProcessTable) -> Protection:
        return protection(table, self._daemon_pids, self._config.runtime_dir)

    def _is_anything_configured(self) -> bool:
        legacy = self._legacy
        return bool(legacy.screens or legacy.processes or legacy.pid_files)

    def _wait_for_port(self, seconds: float) -> str:
        """Wait until ``proxy.port`` can be bound; return who has it when it does not come to that."""
        proxy = self._config.proxy
        deadline = time.monotonic() + seconds
        while probe_port(proxy.host, proxy.port) is PortFact.IN_USE:
            if time.monotonic() >= deadline:
                return describe_holder(proxy.host, proxy.port)
            time.sleep(_POLL_SECONDS)
        return ""

    def _watch(self, before: Prepared) -> tuple[Returned, ...]:
        """Look for a while whether something that is meant, or just like what was stopped, is there again.

        Without anything stopped by us there is nothing to wait for: what another supervisor has stopped stays so, and
        one look shows what it has not.
        """
        deadline = time.monotonic() + (WATCH_SECONDS if before.plan.members else 0.0)
        while True:
            again = self.prepare()
            table = again.seen.table
            back = {member.row.pid: member.why for member in again.plan.members if member.depth == 0}
            for pid in find_again(before.seen, before.plan.members, again.seen, self._protection(table).why):
                back.setdefault(pid, "as one that was stopped")
            if back:
                return tuple(
                    Returned(pid, again.seen.commands.get(pid, ""), why, hint(table, pid, before.plan.identities))
                    for pid, why in back.items()
                )
            if time.monotonic() >= deadline:
                return ()
            time.sleep(_POLL_SECONDS)


def warnings(prepared: Prepared) -> list[str]:
    """Return what is likely to go wrong, told before anything is done."""
    told: dict[str, None] = {}
    for member in prepared.plan.members:
        unit = systemd_unit(member.row.pid) if member.depth == 0 else ""
        if unit:
            told[
                f'pid {member.row.pid} runs under {unit}, which may start it again: add systemd_units = ["{unit}"]'
            ] = None
    return list(told)
