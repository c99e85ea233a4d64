"""One managed process: started, watched, restarted, stopped. The decisions are in the pure modules beside this one."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace

from rollbridge.process.accounts import enter_as
from rollbridge.process.clock import Clock, format_at
from rollbridge.process.ending import Ending
from rollbridge.process.environment import complete_environment
from rollbridge.process.exits import ExitStatus
from rollbridge.process.hooks import Hooks
from rollbridge.process.output import OutputFollower
from rollbridge.process.reaper import Reaper
from rollbridge.process.records import decode_record
from rollbridge.process.restart import GiveUp, RestartHistory, decide_restart
from rollbridge.process.run import Counters, Run
from rollbridge.process.run import ProcessSpec as ProcessSpec
from rollbridge.process.run import ProcessState as ProcessState
from rollbridge.process.run import StartReason as StartReason
from rollbridge.process.spawning import StartFailed as StartFailed
from rollbridge.process.standing import Standing
from rollbridge.process.stopping import StopPlan, plan_stop
from rollbridge.process.tree import INSTANCE_VARIABLE, Instance


class StartRefused(StartFailed):
    """Not started because a stop came first, or goes on; nothing is wrong with the command."""


class StartedInVain(StartFailed):
    """Its program could not be reached by the child that was to become it; that has been reported already."""


class ManagedProcess(Standing):
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
        super().__init__(
            spec,
            reaper=reaper,
            outputs=outputs,
            clock=clock,
            on_event=on_event,
            on_change=lambda: on_change(self),
            over_limit=self._over_limit,
            is_probation=is_probation,
        )
        self._before_start = before_start
        self._run_changed = asyncio.Event()
        self._endings: list[Ending] = []
        self._is_killing = False
        self._stop_task: asyncio.Task[None] | None = None
        self._preparations: set[asyncio.Task[dict[str, str]]] = set()
        self._restart_task: asyncio.Task[None] | None = None
        self._recovery_task: asyncio.Task[None] | None = None
        self._watch_task: asyncio.Task[None] | None = None
        self._lone_restart: asyncio.Task[None] | None = None

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
        run = process._recall(decode_record(record))
        if run is not None:
            process._begin_watch(run)
        return process

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
            await self._launch(reason)
        except (StartRefused, StartedInVain):
            raise
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
            self._follow_exit(run, self._last_exit or ExitStatus(None, None))

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

    async def _launch(self, reason: StartReason) -> None:
        """Start the program, now when its environment is known already; raise StartFailed."""
        spec = self.spec
        environment = await self._prepare(spec)
        self._refuse_unless_wanted()
        if self.is_alive:  # somebody else's start was quicker
            return
        run = self._execute(reason, spec, environment)
        failure = None if run.leader.begun is None else await asyncio.shield(run.leader.begun)
        if failure is not None:
            await asyncio.shield(run.finished)
            raise StartedInVain(failure)

    async def _prepare(self, spec: ProcessSpec) -> Mapping[str, str]:
        """Return the environment; raise StartFailed, or StartRefused when a stop comes meanwhile."""
        if spec.launch.env_sources is None:
            return spec.launch.env
        stdout, stderr = self._open_output(spec)
        os.close(stdout)
        task = asyncio.create_task(
            complete_environment(spec, self._reaper, stderr), name=f"environment of {spec.instance_id}"
        )
        self._preparations.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise StartRefused(f"{spec.instance_id} was stopped before it had started") from None
        finally:
            self._preparations.discard(task)
            os.close(stderr)

    def _open_output(self, spec: ProcessSpec, owner: int | None = None) -> tuple[int, int]:
        self._output.keep_lines = spec.process.output_lines
        try:
            return self._output.open_for_child(owner)
        except OSError as error:
            raise StartFailed(f"its output files cannot be opened: {error}") from error

    def _execute(self, reason: StartReason, spec: ProcessSpec, environment: Mapping[str, str]) -> Run:
        """Start the program, or what is about to become it, without yielding to the loop; raise StartFailed."""
        entry = enter_as(spec.process)
        token = secrets.token_hex(16)
        stdout, stderr = self._open_output(spec, entry.uid)
        entry = replace(entry, cgroup=self._open_group(spec, token))
        # Written down before it is used: a daemon that is killed in this moment has started something that the next
        # one finds by its mark alone.
        self._token = token
        self._before_start()
        try:
            leader = self._reaper.spawn(
                spec.launch.argv,
                cwd=spec.launch.cwd,
                env={**environment, INSTANCE_VARIABLE: token},
                stdout=stdout,
                stderr=stderr,
                is_path_secret=environment.get("PATH") != spec.launch.env.get("PATH"),
                entry=entry,
            )
        except StartFailed:
            if entry.cgroup is not None:
                self._reaper.groups.close(token, os.getpid())
            raise
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
            environment=environment,
        )
        if reason is StartReason.DEPLOY:
            self._counters = Counters()
        else:
            self._counters.restarts += 1
        if reason is StartReason.MEMORY:
            self._counters.memory_restarts += 1
            self._counters.last_memory_restart_at = self._run.started_at
        self._memory.is_warned = False
        if leader.begun is None:
            self._note_begun(self._run)
        self._begin_watch(self._run)
        return self._run

    def _open_group(self, spec: ProcessSpec, token: str) -> str | None:
        """Make its control group; without one it runs all the same, and that is said once."""
        if spec.process.cgroup is None:
            return None
        groups = self._reaper.groups
        application = spec.launch.env.get("ROLLBRIDGE_APPLICATION", "")
        path, problem = groups.open(application, token, spec.process.cgroup)
        if problem is not None and groups.is_news(problem):
            self._report("control group not complete", {"reason": problem})
        return None if path is None else str(path)

    def _note_begun(self, run: Run) -> None:
        """The program runs: it is what was asked for, no longer what was about to become it."""
        self._report("process started", {"pid": run.leader.identity.pid, "reason": run.reason.value})
        if run is self._run and not self._is_stopping():
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
        failure = None if run.leader.begun is None else await run.leader.begun
        if failure is None and run.leader.begun is not None:
            self._note_begun(run)
        status = await run.leader.exit
        await self._output.drain()
        if failure is not None:
            self._note_vain_start(run, status, failure)
            return
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
            self._changed()
        elif self._is_probation:
            self._fail(f"{run.spec.instance_id} {self._describe(status)}")
        else:
            self._follow_exit(run, status)

    def _follow_exit(self, run: Run, status: ExitStatus) -> None:
        """After an exit nobody asked for: start it again, unless it has said that this would not help."""
        if status.code not in self.spec.process.restart.no_restart_codes:
            self._begin_recovery(run)
            return
        self._change(ProcessState.STOPPING)
        self._recovery_task = asyncio.create_task(self._stay_down(status), name=f"end {run.spec.instance_id}")

    async def _stay_down(self, status: ExitStatus) -> None:
        """End what it left; cancelled by a stop or a start."""
        self._report("process not restarted", {"exit_code": status.code})
        await self._end_leftovers()
        self._output.close()
        if status.is_success:
            self._change(ProcessState.STOPPED)
        else:
            self._fail(f"{self.spec.instance_id} {self._describe(status)}, after which it is not restarted")

    def _note_vain_start(self, run: Run, status: ExitStatus, failure: str) -> None:
        """The program was never reached; what happens then is what happens after an exit."""
        self._report("process did not start", {"error": failure})
        run.finished.set_result(status)
        if not self._is_wanted or self._is_stopping() or run is not self._run:
            self._changed()
        elif self._is_probation or run.reason in (StartReason.DEPLOY, StartReason.MANUAL):
            self._fail(failure)
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
                await self._launch(StartReason.CRASH)
                return
            except (StartRefused, StartedInVain):
                return  # whoever watches it has taken over
            except StartFailed as error:
                self._report("process did not start", {"error": str(error)})

    async def _cancel_recovery(self) -> None:
        task, self._recovery_task = self._recovery_task, None
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait((task,))

    async def _cancel_preparations(self) -> None:
        """End the reading of an environment for a start that is not wanted any more."""
        tasks = set(self._preparations)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

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
        await self._cancel_preparations()
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
            if run.spec.process.cgroup is not None:
                self._reaper.groups.close(run.instance.token, run.instance.leader.pid)
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
