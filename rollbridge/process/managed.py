"""One managed process: started, watched, restarted, stopped. The decisions are in the pure modules beside this one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace

from rollbridge.process.clock import Clock, format_at
from rollbridge.process.ending import Ending
from rollbridge.process.exits import ExitStatus, describe_exit
from rollbridge.process.hooks import Hooks
from rollbridge.process.identity import is_alive
from rollbridge.process.memory_watch import SHARED_LOOK_SECONDS, MemoryWatch
from rollbridge.process.output import LogLine, OutputFollower, ProcessOutput
from rollbridge.process.reaper import Reaper
from rollbridge.process.records import ProcessRecord, decode_record, encode_record
from rollbridge.process.restart import GiveUp, RestartHistory, decide_restart
from rollbridge.process.run import Counters, Run
from rollbridge.process.run import ProcessSpec as ProcessSpec
from rollbridge.process.run import ProcessState as ProcessState
from rollbridge.process.run import StartReason as StartReason
from rollbridge.process.snapshot import describe_process
from rollbridge.process.spawning import StartFailed as StartFailed
from rollbridge.process.stopping import StopPlan, plan_stop
from rollbridge.process.table import ProcessTable
from rollbridge.process.tree import INSTANCE_VARIABLE, Instance, find_leader


class StartRefused(StartFailed):
    """Not started because a stop came first, or goes on; nothing is wrong with the command."""


class ManagedProcess:
    """Create it on the running loop, then ``start``. All methods are safe to call at any time, together or twice.

    What the owner asked for last decides: after ``stop`` or ``kill`` nothing brings the process back but ``start``.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        *,
        reaper: Reaper,
        outputs: OutputFollower,
        clock: Clock,
        on_event: Callable[[str, dict[str, object]], None],
        on_change: Callable[[ManagedProcess], None],
        is_probation: bool = False,
        before_start: Callable[[], object] = lambda: None,
    ) -> None:
        self.spec = spec
        self._reaper = reaper
        self._clock = clock
        self._on_event = on_event
        self._on_change = on_change
        self._is_probation = is_probation
        self._before_start = before_start
        self._token: str | None = None  # of the start that goes on at this moment
        self._output: ProcessOutput = outputs.open(spec.instance_id, spec.process.output_lines)
        self._output.on_skip = lambda count: self._report("output skipped", {"bytes": count})
        self._state = ProcessState.STOPPED
        self._is_wanted = False
        self._failure: str | None = None
        self._run: Run | None = None
        self._run_changed = asyncio.Event()
        self._last_exit: ExitStatus | None = None
        self._history = RestartHistory()
        self._counters = Counters()
        self._memory = MemoryWatch(reaper, self._report, self._over_limit)
        self._endings: list[Ending] = []
        self._is_killing = False
        self._stop_task: asyncio.Task[None] | None = None
        self._restart_task: asyncio.Task[None] | None = None
        self._recovery_task: asyncio.Task[None] | None = None
        self._watch_task: asyncio.Task[None] | None = None
        self._lone_restart: asyncio.Task[None] | None = None

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

    # What can be asked of it

    async def start(self, reason: StartReason) -> None:
        """Start it; raise StartFailed with a sentence for the operator.

        Waits for a stop that is going on, and for what is left of an earlier run to be gone. Does nothing when it runs.
        """
        self._is_wanted = True
        if reason in (StartReason.DEPLOY, StartReason.MANUAL):
            self._history = RestartHistory()
        if self._stop_task is not None and self._is_stopping():
            await asyncio.shield(self._stop_task)
        self._refuse_unless_wanted()
        if self.is_alive and self._state is ProcessState.RUNNING:
            return
        if self._run is not None and not self._run.is_alive:
            await asyncio.shield(self._run.finished)
        await self._cancel_recovery()
        if self.is_alive:  # the recovery had just got there
            return
        self._failure = None
        self._change(ProcessState.STARTING)
        await self._end_leftovers()
        self._refuse_unless_wanted()
        if self.is_alive:  # somebody else's start was quicker
            return
        try:
            self._launch(reason)
        except StartFailed as error:
            self._report("process did not start", {"error": str(error)})
            self._fail(str(error))
            raise

    async def stop(self) -> None:
        """Carry out the stop sequence; returns when nothing of its tree is left. Concurrent callers share one."""
        self._is_wanted = False
        await self._stop_once(is_kill=False)

    async def kill(self) -> None:
        """SIGKILL the whole tree now, also in the middle of a stop and against ``"indefinite"``."""
        self._is_wanted = False
        await self._stop_once(is_kill=True)

    async def restart(self, reason: StartReason) -> None:
        """Stop and start again; concurrent callers share one. A ``stop`` that comes meanwhile wins.

        Raises StartFailed; StartRefused when it is stopped or being stopped, since only ``start`` ends that.
        """
        if self._restart_task is None or self._restart_task.done():
            if self._state in (ProcessState.STOPPED, ProcessState.STOPPING):
                raise StartRefused(f"{self.spec.instance_id} is {self._state.value}; a restart does not bring it back")
            self._is_wanted = True
            self._restart_task = asyncio.create_task(self._restart(reason), name=f"restart {self.spec.instance_id}")
            # Events tell of a failed start; a caller that left meanwhile must not turn it into a traceback.
            self._restart_task.add_done_callback(lambda task: None if task.cancelled() else task.exception())
        await asyncio.shield(self._restart_task)

    def redefine(self, spec: ProcessSpec) -> None:
        """Use ``spec`` from the next start on; what runs is stopped by the definition it was started with."""
        self.spec = spec

    def end_probation(self) -> None:
        """From now on the restart policy applies, also to an exit that has happened already."""
        if not self._is_probation:
            return
        self._is_probation = False
        run = self._run
        if self._is_wanted and run is not None and not run.is_alive and self._state is ProcessState.FAILED:
            self._failure = None
            self._begin_recovery(run)

    async def wait_exit(self) -> ExitStatus:
        """Return how the leader ended: now, or when it does. Waits for the first start if there was none."""
        while self._run is None:
            self._run_changed.clear()
            await self._run_changed.wait()
        return await asyncio.shield(self._run.finished)

    def discard(self) -> None:
        """Remove its output files; it must have been stopped."""
        self._output.discard()

    # Starting

    def _refuse_unless_wanted(self) -> None:
        if not self._is_wanted:
            raise StartRefused(f"{self.spec.instance_id} was stopped before it had started")

    def _launch(self, reason: StartReason) -> None:
        """Start the program now, without yielding to the loop; raise StartFailed."""
        spec = self.spec
        token = secrets.token_hex(16)
        self._output.keep_lines = spec.process.output_lines
        try:
            stdout, stderr = self._output.open_for_child()
        except OSError as error:
            raise StartFailed(f"its output files cannot be opened: {error}") from error
        # Written down before it is used: a daemon that is killed in this moment has started something that the next
        # one finds by its mark alone.
        self._token = token
        self._before_start()
        try:
            leader = self._reaper.spawn(
                spec.launch.argv,
                cwd=spec.launch.cwd,
                env={**spec.launch.env, INSTANCE_VARIABLE: token},
                stdout=stdout,
                stderr=stderr,
            )
        finally:
            self._token = None
            os.close(stdout)
            os.close(stderr)
        self._run = Run(
            spec=spec,
            instance=Instance(leader.identity, token),
            leader=leader,
            reason=reason,
            started_at=format_at(self._clock.utc_now()),
            started_monotonic=self._clock.monotonic(),
            finished=asyncio.get_running_loop().create_future(),
        )
        if reason is StartReason.DEPLOY:
            self._counters = Counters()
        else:
            self._counters.restarts += 1
        if reason is StartReason.MEMORY:
            self._counters.memory_restarts += 1
            self._counters.last_memory_restart_at = self._run.started_at
        self._memory.is_warned = False
        self._report("process started", {"pid": leader.identity.pid, "reason": reason.value})
        self._begin_watch(self._run)
        self._change(ProcessState.RUNNING)

    def _begin_watch(self, run: Run) -> None:
        self._run_changed.set()
        self._watch_task = asyncio.create_task(self._watch(run), name=f"watch {run.spec.instance_id}")
        self._memory.begin(run)

    async def _restart(self, reason: StartReason) -> None:
        await self._stop_once(is_kill=False)
        await self.start(reason) if self._is_wanted else self._refuse_unless_wanted()

    # Its end

    async def _watch(self, run: Run) -> None:
        """Notice the leader's end; what happens then depends on whether anybody asked for it."""
        status = await run.leader.exit
        await self._output.drain()
        self._last_exit = status
        is_expected = not self._is_wanted or self._is_stopping()
        self._report(
            "process exited",
            {
                "pid": run.leader.identity.pid,
                "exit_code": status.code,
                "exit_signal": status.signal_name,
                "description": self._describe(status),
                "uptime_seconds": round(self._clock.monotonic() - run.started_monotonic, 3),
                "expected": is_expected,
            },
        )
        run.finished.set_result(status)
        if is_expected or run is not self._run:
            self._on_change(self)
        elif self._is_probation:
            self._fail(f"{run.spec.instance_id} {self._describe(status)}")
        else:
            self._begin_recovery(run)

    def _begin_recovery(self, run: Run) -> None:
        self._change(ProcessState.STARTING)
        self._recovery_task = asyncio.create_task(self._recover(run), name=f"recover {run.spec.instance_id}")

    async def _recover(self, run: Run) -> None:
        """Start a crashed process again as its policy allows; cancelled by a stop, wherever it waits."""
        await self._end_leftovers()
        while True:
            config = self.spec.process
            now = self._clock.monotonic()
            decision = decide_restart(config.restart, config.restart_delay_seconds, self._history, now)
            if isinstance(decision, GiveUp):
                self._report(
                    "process gave up", {"restarts": decision.restarts, "window_seconds": decision.window_seconds}
                )
                how = self._describe(self._last_exit) if self._last_exit else "did not start"
                self._fail(f"{self.spec.instance_id} {how}, and {decision.restarts} restarts did not help")
                return
            self._history = decision.history
            self._report(
                "process restarting", {"delay_seconds": round(decision.delay_seconds, 3), "attempt": decision.attempt}
            )
            await asyncio.sleep(decision.delay_seconds)
            try:
                self._launch(StartReason.CRASH)
                return
            except StartFailed as error:
                self._report("process did not start", {"error": str(error)})

    async def _cancel_recovery(self) -> None:
        task, self._recovery_task = self._recovery_task, None
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait((task,))

    # Stopping

    def _is_stopping(self) -> bool:
        return self._stop_task is not None and not self._stop_task.done()

    async def _stop_once(self, *, is_kill: bool) -> None:
        if not self._is_stopping():
            self._is_killing = is_kill
            self._stop_task = asyncio.create_task(self._stop(), name=f"stop {self.spec.instance_id}")
        elif is_kill:
            self._is_killing = True
            for ending in self._endings:
                ending.override()
        assert self._stop_task is not None
        await asyncio.shield(self._stop_task)

    async def _stop(self) -> None:
        await self._cancel_recovery()
        run = self._run
        if run is None or run.is_over:
            self._output.close()
            self._settle()
            return
        if run.is_alive:
            self._change(ProcessState.STOPPING)
            self._report("process stopping", {"pid": run.leader.identity.pid})
        await self._end(run)
        if run.leader.exit.done():
            await run.finished
        self._output.close()
        self._settle()
        self._report("process stopped", {})

    def _settle(self) -> None:
        """The state once nothing runs: on the way to a start, failed as before, or stopped."""
        if self._is_wanted:
            self._change(ProcessState.STARTING)
        elif self._failure is not None:
            self._change(ProcessState.FAILED)
        else:
            self._change(ProcessState.STOPPED)

    async def _end_leftovers(self) -> None:
        """Before anything is started in its place: end what outlived the leader."""
        if self._run is not None and not self._run.is_alive and not self._run.is_over:
            await self._end(self._run)

    async def _end(self, run: Run) -> None:
        self._memory.end()
        ending = Ending(
            run.instance,
            run.leader,
            self._stop_plan(run),
            self._reaper,
            self._clock,
            self._report,
            Hooks(run, self._reaper, self._output),
            asked=run.asked,
        )
        self._endings.append(ending)
        if self._is_stopping() and self._is_killing:
            ending.override()
        try:
            await ending.run()
            await self._output.drain()  # survivors may have written after the leader's end
            run.is_over = True
        finally:
            self._endings.remove(ending)

    def _stop_plan(self, run: Run) -> StopPlan:
        return plan_stop(run.spec.process, run.spec.launch.lifecycle)

    # Memory

    def _over_limit(self, size_bytes: int) -> None:
        """Restart it; but not on probation, when an exit is final and the deploy decides first."""
        memory = self.spec.process.memory
        if self._is_probation or self._is_stopping() or not self._is_wanted:
            return
        self._report(
            "memory limit reached", {"bytes": size_bytes, "limit_bytes": memory.limit_bytes if memory else None}
        )
        self._restart_alone(StartReason.MEMORY)

    def _restart_alone(self, reason: StartReason) -> None:
        """Restart without anybody waiting for it; a start that fails is tried again like a crash."""

        async def restart() -> None:
            try:
                await self.restart(reason)
            except StartRefused:
                return  # a stop came first, and has said so
            except StartFailed:
                if self._run is not None and self._is_wanted:
                    self._failure = None
                    self._begin_recovery(self._run)

        self._lone_restart = asyncio.create_task(restart(), name=f"{reason.value} restart {self.spec.instance_id}")

    # What is told of it

    def _report(self, message: str, data: dict[str, object]) -> None:
        self._on_event(message, {"process": self.spec.instance_id, "release_id": self.spec.release_id, **data})

    def _describe(self, status: ExitStatus) -> str:
        return describe_exit(status, is_shell_command=isinstance(self.spec.process.command, str))

    def _change(self, state: ProcessState) -> None:
        self._state = state
        self._on_change(self)

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

    @classmethod
    def adopt(
        cls,
        spec: ProcessSpec,
        record: Mapping[str, object],
        *,
        reaper: Reaper,
        outputs: OutputFollower,
        clock: Clock,
        on_event: Callable[[str, dict[str, object]], None],
        on_change: Callable[[ManagedProcess], None],
        is_probation: bool = False,
        before_start: Callable[[], object] = lambda: None,
    ) -> ManagedProcess:
        """Continue with what an earlier daemon recorded; raise ValueError when the record makes no sense.

        When it lives (pid, start time and boot id agree) it behaves like a started one from here on. When it does
        not, the state is failed (or stopped, if it was) and ``is_alive`` False: ``start`` then first ends what is left
        of its tree. A record of another boot, or of a pid that is somebody else's now, never leads to a signal.
        """
        process = cls(
            spec,
            reaper=reaper,
            outputs=outputs,
            clock=clock,
            on_event=on_event,
            on_change=on_change,
            is_probation=is_probation,
            before_start=before_start,
        )
        process._resume(decode_record(record))
        return process

    def _resume(self, found: ProcessRecord) -> None:
        self._counters.restarts = found.restarts
        self._counters.memory_restarts = found.memory_restarts
        self._counters.last_memory_restart_at = found.last_memory_restart_at
        if found.has_exited:
            self._last_exit = ExitStatus(found.exit_code, found.exit_signal)
        if found.boot_id == self._reaper.boot_id:
            self._history = RestartHistory(found.restart_times)
        if found.identity is None and found.token is not None and found.boot_id == self._reaper.boot_id:
            found = replace(found, identity=find_leader(self._reaper.table(), found.token))
        if found.identity is None or found.token is None or found.identity.boot_id != self._reaper.boot_id:
            self._state = ProcessState.STOPPED if found.state == "stopped" else ProcessState.FAILED
            return
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
        self._begin_watch(run)
