"""Hooks of the stop sequence: short commands with the environment, directory and output files of their process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from rollbridge.process.accounts import hook_entry
from rollbridge.process.environment import complete_environment
from rollbridge.process.output import ProcessOutput
from rollbridge.process.reaper import HookResult, Reaper
from rollbridge.process.run import Run
from rollbridge.process.spawning import StartFailed
from rollbridge.process.tree import INSTANCE_VARIABLE


@dataclass(frozen=True, slots=True)
class Hooks:
    """Runs the hooks of one run. What they print goes to the output of the process, where its own lines are."""

    run: Run
    reaper: Reaper
    output: ProcessOutput

    def begin(self, command: str, timeout_seconds: float, on_start: Callable[[int], None]) -> asyncio.Task[HookResult]:
        """Start ``command``; ``on_start`` is told its pid. Cancelling the task kills it."""
        return asyncio.create_task(
            self._carry_out(command, timeout_seconds, on_start), name=f"hook of {self.run.spec.instance_id}"
        )

    async def _carry_out(self, command: str, timeout_seconds: float, on_start: Callable[[int], None]) -> HookResult:
        try:
            stdout, stderr = self.output.duplicates()
        except OSError as error:
            return HookResult(None, f"its output files cannot be opened: {error}")
        launch = self.run.spec.launch
        # Marked as part of the instance, so that what a hook leaves running in the background is ended with it.
        marks = {
            INSTANCE_VARIABLE: self.run.instance.token,
            "ROLLBRIDGE_PID": str(self.run.leader.identity.pid),
        }
        environment = self.run.environment
        try:
            if environment is None:
                # Started by an earlier daemon, and values are not kept: what they are now is the nearest there is.
                environment = await complete_environment(self.run.spec, self.reaper, stderr)
            return await self.reaper.run_hook(
                command,
                cwd=launch.cwd,
                env={**environment, **marks},
                stdout=stdout,
                stderr=stderr,
                timeout_seconds=timeout_seconds,
                on_start=on_start,
                entry=hook_entry(self.run.spec.process),
            )
        except StartFailed as error:
            return HookResult(None, str(error))
        finally:
            os.close(stdout)
            os.close(stderr)
