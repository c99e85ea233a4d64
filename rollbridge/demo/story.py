"""What the demo plays: the product's main job from the first deploy to the shutdown, under traffic."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from rollbridge.demo.jobs import JobCounts, JobQueue
from rollbridge.demo.ledger import Kill, Ledger
from rollbridge.demo.product import CommandResult, Product
from rollbridge.demo.report import Report, show_seconds
from rollbridge.demo.screen import Screen, show_mix
from rollbridge.demo.stage import HOST, Stage
from rollbridge.demo.traffic import Traffic

STATUS_SECONDS: Final = 0.1
MIX_SECONDS: Final = 1.0  # what the status line calls now
# How long the clients may need to notice what a command has said is so.
NOTICE_SECONDS: Final = 5.0
RECOVERY_SECONDS: Final = 10.0
REFUSED: Final = 4  # exit code: here, that somebody else has the port
OTHER_PORTS: Final = 2
JOBS_SECONDS: Final = 10.0
JOB_PAUSE_SECONDS: Final = 0.12
JOB_SECONDS: Final = (0.05, 0.2)


class StepFailed(Exception):
    """A step did not end as the story wants; the message is for the person who watches."""


class Story:
    """``play`` is the story; ``end_traffic`` must follow it, however it ended."""

    def __init__(
        self,
        stage: Stage,
        product: Product,
        screen: Screen,
        chance: random.Random,
        choose_ports: Callable[[], Stage],
    ) -> None:
        """``choose_ports`` gives the same stage with other ports."""
        self.stage = stage
        self._choose_ports = choose_ports
        self._product = product
        self._screen = screen
        self._chance = chance
        self._ledger = Ledger(time.monotonic())
        self._traffic = self._new_traffic()
        self._queue = JobQueue(stage.jobs_directory)
        self._jobs: list[str] = []
        self._background: list[asyncio.Task[None]] = []
        self._recovery_seconds: float | None = None
        self.is_shut_down = False

    async def play(self) -> None:
        """Raises StepFailed, CommandFailed."""
        await self._deploy_first("v1")
        await self._begin_traffic("v1")
        await self._watch(1.2)
        await self._deploy("v2")
        await self._watch(1.0)
        await self._deploy_broken("v3", serving="v2")
        await self._watch(0.6)
        await self._roll_back(to="v1")
        await self._watch(1.0)
        await self._kill_web()
        await self._watch(1.0)
        await self._finish_traffic()
        await self._shut_down()

    def _new_traffic(self) -> Traffic:
        return Traffic(HOST, self.stage.port, self._ledger, time.monotonic, self._chance)

    async def end_traffic(self) -> None:
        """Stop whatever of the traffic still runs."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._traffic.cancel()

    def report(self, problems: list[str]) -> Report:
        """What came of it; ``problems`` are those of the steps."""
        failures = [
            f"{failure.kind.value}, {self._screen.seconds_at(failure.ended_at):.1f}s: {failure.reason}"
            for failure in self._ledger.failures()
        ]
        jobs = self._queue.count(self._jobs)
        return Report(
            kinds=tuple(self._ledger.summaries()),
            websockets=self._ledger.websockets(),
            jobs=jobs,
            recovery_seconds=self._recovery_seconds,
            seconds=self._screen.seconds,
            # When a step failed, the jobs had no time to be done, and that is not a second failure.
            problems=(*problems, *failures, *([] if problems else find_job_problems(jobs))),
        )

    async def _deploy_first(self, release_id: str) -> None:
        """Start the daemon with the first deploy; when the port was taken since we found it free, with another one."""
        self._screen.step(f"deploy {release_id}")
        options = ("--ensure-daemon", "--daemon-log-path", str(self.stage.log_path))
        result = await self._run_deploy(release_id, *options)
        for _ in range(OTHER_PORTS):
            if result.exit_code != REFUSED:
                break
            self.stage = self._choose_ports()
            self._traffic = self._new_traffic()
            self._screen.step(f"trying port {self.stage.port} instead")
            result = await self._run_deploy(release_id, *options)
        self._expect_done(f"deploy {release_id}", result, active=release_id)

    async def _deploy(self, release_id: str) -> None:
        self._screen.step(f"deploy {release_id}")
        self._traffic.expect(None)  # both may answer until the command returns
        result = await self._run_deploy(release_id)
        self._expect_done(f"deploy {release_id}", result, active=release_id)

    async def _deploy_broken(self, release_id: str, *, serving: str) -> None:
        self._screen.step(f"deploy {release_id}, which is broken")
        result = await self._run_deploy(release_id)
        if result.exit_code != 1:
            raise StepFailed(
                f"`deploy {release_id}` ended with {result.exit_code}, though the release is broken and 1 is failed."
            )
        await self._wait_until_answered_by(serving)
        self._screen.step(f"{release_id} failed, as it should; {serving} goes on")

    async def _roll_back(self, *, to: str) -> None:
        self._screen.step(f"rollback to {to}")
        self._traffic.expect(None)
        result = await self._run("rollback")
        self._expect_done("rollback", result, active=to)

    def _expect_done(self, command: str, result: CommandResult, *, active: str) -> None:
        if result.exit_code != 0:
            reason = result.errors[-1] if result.errors else "it did not say why"
            raise StepFailed(f"`{command}` ended with {result.exit_code}: {reason}")
        if result.answer.get("active_release_id") != active:
            raise StepFailed(f"after `{command}` the active release is {result.answer.get('active_release_id')!r}.")
        # From here on no new request may be answered by another.
        self._traffic.expect(active)

    async def _begin_traffic(self, release_id: str) -> None:
        self._ledger.begin(time.monotonic())
        self._traffic.start()
        self._background += [asyncio.create_task(self._add_jobs()), asyncio.create_task(self._update_status())]
        await self._wait_until_answered_by(release_id)
        self._screen.step(f"traffic of every kind runs against http://{HOST}:{self.stage.port}/")

    async def _wait_until_answered_by(self, release_id: str) -> None:
        """Wait until a request that begins from now on is answered by ``release_id``."""
        begun_at = time.monotonic()
        while self._traffic.newest.release != release_id or self._traffic.newest.started_at < begun_at:
            if time.monotonic() > begun_at + NOTICE_SECONDS:
                raise StepFailed(
                    f"{NOTICE_SECONDS:g} s later, {self._traffic.newest.release} answers, not {release_id}."
                )
            await self._tick()

    async def _kill_web(self) -> None:
        """Kill the web process while it answers, and wait until another one does."""
        process = await self._read_web_process()
        killed_at = time.monotonic()
        # Nothing is sent in between, for this does not yield to the clients: what
        # was sent before the kill was sent to a living process, the rest to none.
        if not self._product.kill(process["pid"]):
            raise StepFailed(
                f"pid {process['pid']}, which `status` calls the web process, is none that could be killed."
            )
        kill = self._ledger.kill = Kill(process["pid"], killed_at, time.monotonic())
        self._screen.step(f"kill -9 {process['pid']}: the web process is dead, requests wait")
        while self._traffic.newest.server_pid in (None, kill.pid):
            if time.monotonic() > kill.dead_at + RECOVERY_SECONDS:
                raise StepFailed(f"{RECOVERY_SECONDS:g} s after the kill no new web process answers.")
            await self._tick()
        self._recovery_seconds = time.monotonic() - killed_at
        self._screen.step(f"a new one answers after {show_seconds(self._recovery_seconds)}")
        process = await self._read_web_process()
        if process["state"] != "running" or not process["restarts"] or process["last_start_reason"] != "crash":
            raise StepFailed(f"status does not tell of the crash: {process!r}")

    async def _read_web_process(self) -> dict[str, Any]:
        result = await self._run("status")
        if result.exit_code != 0:
            raise StepFailed(f"`status` ended with {result.exit_code}.")
        status = result.answer
        for release in status["releases"]:
            if release["release_id"] == status["active_release_id"]:
                for process in release["processes"]:
                    if process["process_id"] == "web":
                        return dict(process)
        raise StepFailed(f"`status` names no web process of the active release {status['active_release_id']}.")

    async def _watch(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        before = self._ledger.releases.copy()
        while time.monotonic() < deadline:
            await self._tick()
        mix = show_mix(self._ledger.releases - before)
        self._screen.step(f"{self._ledger.request_count:,} requests, {len(self._ledger.failures())} failed; now {mix}")

    async def _tick(self) -> None:
        self._traffic.check()
        await asyncio.sleep(0.01)

    async def _finish_traffic(self) -> None:
        adding, *_ = self._background
        adding.cancel()
        self._screen.step("the traffic ends, the last jobs are done")
        await asyncio.gather(self._traffic.finish(), self._finish_jobs())

    async def _finish_jobs(self) -> None:
        deadline = time.monotonic() + JOBS_SECONDS
        while self._queue.done_count() < len(self._jobs) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    async def _shut_down(self) -> None:
        self._screen.step("shutdown")
        result = await self._run("shutdown")
        if result.exit_code != 0:
            raise StepFailed(f"`shutdown` ended with {result.exit_code}.")
        self.is_shut_down = True

    async def _run_deploy(self, release_id: str, *options: str) -> CommandResult:
        path = str(self.stage.release_path(release_id))
        return await self._run("deploy", "--release-path", path, "--release-id", release_id, *options)

    async def _run(self, *arguments: str) -> CommandResult:
        return await self._product.run(*arguments, on_line=self._screen.detail)

    async def _add_jobs(self) -> None:
        while True:
            job = f"job-{len(self._jobs) + 1:05d}"
            self._jobs.append(job)
            self._queue.add(job, self._chance.uniform(*JOB_SECONDS))
            await asyncio.sleep(JOB_PAUSE_SECONDS)

    async def _update_status(self) -> None:
        past: deque[Counter[str]] = deque(maxlen=round(MIX_SECONDS / STATUS_SECONDS))
        while True:
            past.append(self._ledger.releases.copy())
            self._screen.status(
                f"{self._ledger.request_count:,} requests, {len(self._ledger.failures())} failed, "
                f"{self._queue.done_count()} jobs done; now {show_mix(self._ledger.releases - past[0])}"
            )
            await asyncio.sleep(STATUS_SECONDS)


def find_job_problems(jobs: JobCounts) -> list[str]:
    problems = []
    if jobs.duplicated:
        problems.append(f"{jobs.duplicated} jobs were run twice.")
    if jobs.done < jobs.queued:
        problems.append(f"{jobs.queued - jobs.done} of {jobs.queued} jobs were not done, {jobs.lost} of them lost.")
    return problems
