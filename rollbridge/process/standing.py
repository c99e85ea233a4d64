"""What is known of one managed process, what is told of it, and how the next daemon learns it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

from rollbridge.process.clock import Clock, format_at
from rollbridge.process.exits import ExitStatus, describe_exit
from rollbridge.process.identity import is_alive
from rollbridge.process.memory_watch import SHARED_LOOK_SECONDS, MemoryWatch
from rollbridge.process.output import LogLine, OutputFollower, ProcessOutput
from rollbridge.process.reaper import Reaper
from rollbridge.process.recognition import is_stranger
from rollbridge.process.records import ProcessRecord, encode_record
from rollbridge.process.restart import RestartHistory
from rollbridge.process.run import Counters, ProcessSpec, ProcessState, Run, StartReason
from rollbridge.process.snapshot import describe_process
from rollbridge.process.table import ProcessTable
from rollbridge.process.tree import Instance, find_leader


class Standing:
    """The facts about one process, present and past; ``ManagedProcess`` adds what is done with it.

    ``on_change`` is called after every change of state.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        *,
        reaper: Reaper,
        outputs: OutputFollower,
        clock: Clock,
        on_event: Callable[[str, dict[str, object]], None],
        on_change: Callable[[], None],
        over_limit: Callable[[int], None],
        is_probation: bool,
    ) -> None:
        self.spec = spec
        self._reaper = reaper
        self._clock = clock
        self._on_event = on_event
        self._changed = on_change
        self._is_probation = is_probation
        self._token: str | None = None  # of the start that goes on at this moment
        self._output: ProcessOutput = outputs.open(spec.instance_id, spec.process.output_lines)
        self._output.on_skip = lambda count: self._report("output skipped", {"bytes": count})
        self._state = ProcessState.STOPPED
        self._is_wanted = False
        self._failure: str | None = None
        self._run: Run | None = None
        self._last_exit: ExitStatus | None = None
        self._history = RestartHistory()
        self._counters = Counters()
        self._memory = MemoryWatch(reaper, self._report, over_limit)

    # What it is

    @property
    def state(self) -> ProcessState:
        return self._state

    @property
    def pid(self) -> int | None:
        """The leader's pid while it lives."""
        return self._run.leader.identity.pid if self._run is not None and self._run.is_alive else None

    @property
    def is_alive(self) -> bool:
        """Whether the leader lives; after ``adopt`` False says that it ended while no daemon watched."""
        return self._run is not None and self._run.is_alive

    @property
    def last_exit(self) -> ExitStatus | None:
        return self._last_exit

    @property
    def failure(self) -> str | None:
        """Why the state is failed, as a sentence."""
        return self._failure

    @property
    def output(self) -> ProcessOutput:
        return self._output

    def last_lines(self, n: int) -> list[LogLine]:
        return self._output.last(n)

    def tree_pids(self, table: ProcessTable | None = None) -> set[int]:
        """Pids of the leader and everything that belongs to it, now."""
        if self._run is None or self._run.is_over:
            return set()
        return {row.pid for row in self._reaper.members(self._run.instance, table or self._reaper.table())}

    # What is told of it

    def _report(self, message: str, data: dict[str, object]) -> None:
        self._on_event(message, {"process": self.spec.instance_id, "release_id": self.spec.release_id, **data})

    def _describe(self, status: ExitStatus) -> str:
        return describe_exit(status, is_shell_command=isinstance(self.spec.process.command, str))

    def _change(self, state: ProcessState) -> None:
        self._state = state
        self._changed()

    def _fail(self, why: str) -> None:
        self._failure = why
        self._change(ProcessState.FAILED)

    def snapshot(self, table: ProcessTable | None = None) -> dict[str, object]:
        """The process as ``status --json`` shows it; ``table`` is shared between the snapshots of one status."""
        run = self._run
        members = []
        if run is not None and not run.is_over:
            members = self._reaper.members(run.instance, table or self._reaper.table(SHARED_LOOK_SECONDS))
        return describe_process(
            self.spec,
            self._state,
            self._failure,
            run,
            self._last_exit,
            self._counters,
            members,
            self._output.last(self.spec.process.output_lines),
            self._clock.monotonic(),
        )

    # Across daemons

    def record(self) -> dict[str, object]:
        """What the next daemon needs to adopt it: identities, counters, offsets; nothing secret."""
        run = self._run if self._token is None else None
        has_tree = run is not None and not run.is_over
        return encode_record(
            ProcessRecord(
                instance_id=self.spec.instance_id,
                release_id=run.spec.release_id if run else self.spec.release_id,
                state=self._state.value,
                identity=run.leader.identity if run and has_tree else None,
                token=run.instance.token if run and has_tree else self._token,
                last_start_reason=run.reason.value if run else None,
                started_at=run.started_at if run else None,
                started_monotonic=run.started_monotonic if run else None,
                boot_id=self._reaper.boot_id,
                exit_code=self._last_exit.code if self._last_exit else None,
                exit_signal=self._last_exit.signal if self._last_exit else None,
                has_exited=self._last_exit is not None,
                restarts=self._counters.restarts,
                restart_times=self._history.restart_times[-100:],
                memory_restarts=self._counters.memory_restarts,
                last_memory_restart_at=self._counters.last_memory_restart_at,
                is_memory_warned=self._memory.is_warned,
                is_probation=self._is_probation,
                output=self._output.record(),
            )
        )

    def _recall(self, found: ProcessRecord) -> Run | None:
        """Take over what an earlier daemon recorded; return the run that is to be watched from here on, if any."""
        self._counters.restarts = found.restarts
        self._counters.memory_restarts = found.memory_restarts
        self._counters.last_memory_restart_at = found.last_memory_restart_at
        if found.has_exited:
            self._last_exit = ExitStatus(found.exit_code, found.exit_signal)
        if found.boot_id == self._reaper.boot_id:
            self._history = RestartHistory(found.restart_times)
        seen = self._reaper.table(SHARED_LOOK_SECONDS)
        if found.identity is not None and is_stranger(seen, found.identity, found.token):
            found = replace(found, identity=None)
        if found.identity is None and found.token is not None and found.boot_id == self._reaper.boot_id:
            found = replace(found, identity=find_leader(self._reaper.table(), found.token))
        if found.identity is None or found.token is None or found.identity.boot_id != self._reaper.boot_id:
            self._state = ProcessState.STOPPED if found.state == "stopped" else ProcessState.FAILED
            return None
        is_living = is_alive(found.identity)
        self._memory.is_warned = found.is_memory_warned
        leader = self._reaper.watch(found.identity)
        started = found.started_monotonic
        run = Run(
            spec=self.spec,
            instance=Instance(found.identity, found.token, is_adopted=True),
            leader=leader,
            reason=StartReason(found.last_start_reason or StartReason.ADOPTED.value),
            started_at=found.started_at or format_at(self._clock.utc_now()),
            started_monotonic=self._clock.monotonic() if started is None else started,
            finished=asyncio.get_running_loop().create_future(),
        )
        self._run = run
        with contextlib.suppress(OSError):
            self._output.adopt(found.output, found.identity.pid)
        self._is_wanted = is_living
        if is_living:
            self._state = ProcessState.RUNNING
            self._report("process adopted", {"pid": found.identity.pid})
        else:
            self._failure = f"{self.spec.instance_id} ended while no daemon was watching"
            self._state = ProcessState.FAILED
        return run
