"""Carry out one stop sequence on one process tree: the shell around the table in stopping.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollbridge.config.model import KillMode
from rollbridge.process.clock import Clock
from rollbridge.process.exits import name_signal
from rollbridge.process.hooks import Hooks
from rollbridge.process.identity import ProcessIdentity, read_ticks_now
from rollbridge.process.reaper import Child, HookResult, Reaper
from rollbridge.process.stopping import (
    HOOK_LINGER_SECONDS,
    KILL_TIMEOUT_SECONDS,
    StopEvent,
    StopPlan,
    StopStep,
    first_step,
    grace_deadline,
    hook_timeout,
    is_reached,
    must_be_asked,
    next_step,
    sweep_deadline,
)
from rollbridge.process.table import ProcessRow, read_command
from rollbridge.process.tree import Instance

FIRST_POLL_SECONDS = 0.01  # most trees are gone within milliseconds of the signal
LONGEST_POLL_SECONDS = 0.25  # each look at a tree costs a few milliseconds; the slow ones are looked at calmly
KILL_POLL_SECONDS = 0.02
NAMED_SURVIVORS = 20  # processes named in one event; more are only counted

Report = Callable[[str, dict[str, object]], None]


@dataclass(slots=True)
class Ending:
    """One tree on its way out. ``run`` may be called once; ``override`` at any time turns it into a kill.

    ``asked`` holds who was sent the stop signal (pid to start time) and outlives the ending: a sweep that takes over
    from another must not send it a second time, since for some programs the second means "at once".
    """

    instance: Instance
    leader: Child
    plan: StopPlan
    reaper: Reaper
    clock: Clock
    report: Report
    hooks: Hooks
    asked: dict[int, int] = field(default_factory=dict)
    _known: dict[int, int] = field(default_factory=dict)
    _asked_at: float | None = None
    _asked_ticks: int | None = None  # the same in the unit of start times
    _hook_session: int | None = None
    _override: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def override(self) -> None:
        """Skip to SIGKILL, wherever the sequence is."""
        if not self._override.done():
            self._override.set_result(None)

    async def run(self) -> None:
        """From quieting to the last survivor; returns when nothing of the tree is left, or nothing can be done."""
        self._members()  # who belongs to it now belongs to it until the end
        step = StopStep.SWEEPING if self.leader.exit.done() else first_step(self.plan)
        while step is not StopStep.DONE:
            step = next_step(self.plan, step, await self._perform(step))

    async def _perform(self, step: StopStep) -> StopEvent:
        if self._override.done() and step is not StopStep.KILLING:
            return StopEvent.OVERRIDDEN
        match step:
            case StopStep.QUIETING:
                assert self.plan.quiet_command is not None
                event, _ = await self._run_hook("quiet_command", self.plan.quiet_command, step)
                return event
            case StopStep.DRAINING:
                return await self._drain()
            case StopStep.ASKING:
                return await self._ask()
            case StopStep.WAITING:
                assert self._asked_at is not None
                return await self._wait(grace_deadline(self.plan, self._asked_at))
            case StopStep.SWEEPING:
                return await self._sweep()
            case _:
                return await self._kill()

    async def _drain(self) -> StopEvent:
        if self.plan.drain_command is not None:
            event, _ = await self._run_hook("drain_command", self.plan.drain_command, StopStep.DRAINING)
            return event
        self.report("process draining", {"drain_timeout_seconds": self.plan.drain_seconds})
        event = await self._wait(self.clock.monotonic() + self.plan.drain_seconds)
        return StopEvent.PASSED if event is StopEvent.OVERDUE else event

    async def _ask(self) -> StopEvent:
        self._asked_at = self.clock.monotonic()
        self._asked_ticks = read_ticks_now()
        if self.plan.stop_command is None:
            self._signal_group(self.plan.stop_signal)
            return StopEvent.PASSED
        event, result = await self._run_hook("stop_command", self.plan.stop_command, StopStep.ASKING)
        if event is StopEvent.PASSED and result is not None and result.error is not None and not self._is_gone():
            # Nobody has asked it then: the plain signal is gentler than waiting for the SIGKILL.
            self._signal_group(self.plan.stop_signal)
        return event

    async def _run_hook(self, name: str, command: str, step: StopStep) -> tuple[StopEvent, HookResult | None]:
        """PASSED when the hook is over, whatever came of it; EXITED when the process was gone first."""
        bound = hook_timeout(self.plan, step)
        self.report("stop hook started", {"hook": name, "timeout_seconds": bound})
        task = self.hooks.begin(command, bound, self._note_hook)
        try:
            await self._first_of(task)
            if not task.done() and self._is_gone() and not self._override.done():
                # A stop command ends within its bound; the others have nothing left to wait for.
                linger = None if step is StopStep.ASKING else HOOK_LINGER_SECONDS
                await asyncio.wait((task, self._override), timeout=linger, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
            self._hook_session = None
        result = None if task.cancelled() else task.result()
        if result is not None and result.error is not None:
            self.report("stop hook failed", {"hook": name, "error": result.error})
        if self._override.done():
            return StopEvent.OVERRIDDEN, result
        return (StopEvent.EXITED if self._is_gone() else StopEvent.PASSED), result

    def _note_hook(self, pid: int) -> None:
        self._hook_session = pid

    async def _wait(self, deadline: float | None) -> StopEvent:
        """Wait for the leader's end."""
        await self._first_of(timeout=None if deadline is None else max(0.0, deadline - self.clock.monotonic()))
        if self._override.done():
            return StopEvent.OVERRIDDEN
        return StopEvent.EXITED if self._is_gone() else StopEvent.OVERDUE

    async def _first_of(self, *others: asyncio.Future[HookResult], timeout: float | None = None) -> None:
        waited: tuple[asyncio.Future[Any], ...] = (self.leader.exit, self._override, *others)
        await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)

    async def _sweep(self) -> StopEvent:
        """Ask those who were not asked yet, then wait until nobody is left or the time is up."""
        poll = FIRST_POLL_SECONDS
        asked_at = self._asked_at = self._asked_at or self.clock.monotonic()
        self._asked_ticks = self._asked_ticks or read_ticks_now()
        strays_since: float | None = None
        was_reported = False
        while True:
            members = self._members()
            if not members:
                return StopEvent.CLEARED
            now = self.clock.monotonic()
            unasked = self._who_must_be_asked(members)
            if unasked and not was_reported:
                was_reported = True  # named before they are signalled: most are gone a moment later
                self.report(
                    "survivors asked to stop",
                    {"signal": name_signal(self.plan.stop_signal), **name_rows(members)},
                )
            for row in unasked:
                self._signal(row, self.plan.stop_signal)
            has_session_member = any(row.session == self.instance.leader.pid for row in members)
            if has_session_member:
                strays_since = None
            elif strays_since is None:
                strays_since = now
            deadline = sweep_deadline(
                self.plan, asked_at, has_session_member=has_session_member, strays_since=strays_since or now
            )
            if deadline is not None and now >= deadline:
                return StopEvent.OVERDUE
            pause = poll if deadline is None else min(poll, max(0.001, deadline - now))
            await asyncio.wait((self._override,), timeout=pause)
            if self._override.done():
                return StopEvent.OVERRIDDEN
            poll = min(poll * 1.5, LONGEST_POLL_SECONDS)

    async def _kill(self) -> StopEvent:
        """SIGKILL until nothing is left: what forks meanwhile is found by the next look."""
        deadline = self.clock.monotonic() + KILL_TIMEOUT_SECONDS
        killed: dict[int, int] = {}
        while True:
            members = self._members()
            if not members:
                break
            fresh = [row for row in members if killed.get(row.pid) != row.start_ticks]
            if fresh:
                self.report("processes killed", name_rows(fresh))
            is_alone = self.plan.kill_mode is KillMode.PROCESS
            if not self.leader.exit.done() and self.leader.is_own and not is_alone:
                self._kill_group()
            path = self._group()
            if path is not None and self.reaper.groups.members(path) <= {row.pid for row in members}:
                self.reaper.groups.kill(path)  # all of them at once: none has the time to fork
            for row in members:
                killed[row.pid] = row.start_ticks
                self.reaper.signal_member(self._identity(row), signal.SIGKILL)
            if self.clock.monotonic() >= deadline:
                self.report("processes could not be killed", name_rows(members))
                return StopEvent.OVERDUE
            await asyncio.sleep(KILL_POLL_SECONDS)
        # Nothing of it runs; what is left is the moment until the zombie is waited for.
        await asyncio.wait((self.leader.exit,), timeout=max(0.0, deadline - self.clock.monotonic()))
        return StopEvent.CLEARED

    def _is_gone(self) -> bool:
        return self.leader.exit.done()

    def _members(self) -> list[ProcessRow]:
        table = self.reaper.table()
        leader, mode = self.instance.leader.pid, self.plan.kill_mode
        members = [
            row
            for row in self.reaper.members(self.instance, table, known=self._known, hook_session=self._hook_session)
            if is_reached(mode, leader, row.pid, row.group)
        ]
        path = self._group()
        if path is not None:
            known = {row.pid for row in members}
            members += [row for row in self.reaper.group_members(path, table) if row.pid not in known]
        self._known = {row.pid: row.start_ticks for row in members}
        return members

    def _group(self) -> Path | None:
        """The control group of the tree, when the stop reaches the whole tree."""
        if self.plan.kill_mode is not KillMode.TREE or not self.plan.has_group:
            return None
        return self.reaper.groups.find(self.instance.token, self.instance.leader.pid)

    def _who_must_be_asked(self, members: list[ProcessRow]) -> list[ProcessRow]:
        assert self._asked_ticks is not None
        pids = {row.pid for row in members}
        return [
            row
            for row in members
            if must_be_asked(
                is_asked=self.asked.get(row.pid) == row.start_ticks,
                was_there_before_the_request=row.start_ticks < self._asked_ticks,
                is_orphan=row.parent not in pids,
            )
        ]

    def _identity(self, row: ProcessRow) -> ProcessIdentity:
        return ProcessIdentity(row.pid, row.start_ticks, self.instance.leader.boot_id)

    def _signal(self, row: ProcessRow, signum: int) -> None:
        self.asked[row.pid] = row.start_ticks
        if self.reaper.signal_member(self._identity(row), signum) and row.is_suspended:
            # A suspended process sees nothing but SIGKILL until it is continued.
            self.reaper.signal_member(self._identity(row), signal.SIGCONT)

    def _signal_group(self, signum: int) -> None:
        """Send the stop signal to the leader's group.

        While the leader is our unreaped child its number certainly names its group, and one call reaches every member
        at once. Otherwise each member is signalled by its identity, again until no new one has been forked.
        """
        self.report("process asked to stop", {"signal": name_signal(signum)})
        is_alone = self.plan.kill_mode is KillMode.PROCESS
        is_certain = self.leader.is_own and not self._is_gone() and not is_alone
        for _ in range(5):
            group = [row for row in self._members() if row.group == self.instance.leader.pid]
            unasked = [row for row in group if self.asked.get(row.pid) != row.start_ticks]
            if is_certain:
                self.asked.update((row.pid, row.start_ticks) for row in group)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.instance.leader.pid, signum)
                    if any(row.is_suspended for row in group):
                        os.killpg(self.instance.leader.pid, signal.SIGCONT)
                return
            if not unasked:
                return
            for row in unasked:
                self._signal(row, signum)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.instance.leader.pid, signal.SIGKILL)


def name_rows(rows: list[ProcessRow]) -> dict[str, object]:
    """Pids and commands for an event."""
    return {
        "pids": [row.pid for row in rows],
        "commands": [read_command(row.pid) for row in rows[:NAMED_SURVIVORS]],
    }
