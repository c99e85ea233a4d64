"""Looks at the memory of one running tree every ``check_interval``: the shell around memory.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rollbridge.config.model import MemoryConfig
from rollbridge.process.memory import MemoryVerdict, decide_memory, needs_exact_size, tree_size
from rollbridge.process.reaper import Reaper
from rollbridge.process.run import Run
from rollbridge.process.table import read_pss_bytes

SHARED_LOOK_SECONDS = 0.25  # checks and snapshots that fall together share one look at /proc


class MemoryWatch:
    """``on_limit`` is called at every check that finds the tree at or above its limit; it decides what that means."""

    def __init__(
        self, reaper: Reaper, report: Callable[[str, dict[str, object]], None], on_limit: Callable[[int], None]
    ) -> None:
        self._reaper = reaper
        self._report = report
        self._on_limit = on_limit
        self._timer: asyncio.TimerHandle | None = None
        self.is_warned = False

    def begin(self, run: Run) -> None:
        """Watch ``run`` from now on, and nothing else."""
        self.end()
        self._plan(run)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan(self, run: Run) -> None:
        config = run.spec.process.memory
        if config is not None and run.is_alive:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(config.check_interval_seconds, self._check, run, config)

    def _check(self, run: Run, config: MemoryConfig) -> None:
        if not run.is_alive:
            return
        # Before the verdict is acted on: a restart ends the watch, and must find this timer to cancel it.
        self._plan(run)
        members = self._reaper.members(run.instance, self._reaper.table(SHARED_LOOK_SECONDS))
        resident = [row.rss_bytes for row in members]
        exact = [read_pss_bytes(row.pid) for row in members] if needs_exact_size(config, resident) else []
        size = tree_size(resident, exact)
        decision = decide_memory(config, size, is_warned=self.is_warned)
        if decision.is_warned and not self.is_warned:
            self._report("memory warning", {"bytes": size, "warn_bytes": config.warn_bytes, "processes": len(members)})
        self.is_warned = decision.is_warned
        if decision.verdict is MemoryVerdict.RESTART:
            self._on_limit(size)
