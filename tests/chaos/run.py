"""A chaos run: ``python -m tests.chaos.run --seed 7 --seconds 120``.

Under mixed load it kills, deploys, upgrades and heals at moments that the seed chooses, and looks all along whether
what rollbridge promises holds. Prints a line per action and a summary. Exit 0: it holds; 1: the violations are listed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.chaos.acts import Acts
from tests.chaos.attribution import Failure, Known, Span, blame, judge_lives
from tests.chaos.builds import two_builds
from tests.chaos.cron import Cron
from tests.chaos.jobs import PLACES, Verdict, judge_jobs
from tests.chaos.plan import Kind, Plan
from tests.chaos.stage import HOLD_SECONDS, Stage
from tests.chaos.traffic import Traffic
from tests.chaos.watch import Watch
from tests.support.application import python_command
from tests.support.ports import is_bindable
from tests.support.waiting import NeverHappened, wait_until

JOBS_SECONDS = 90.0
SHUTDOWN_SECONDS = 180.0
GONE_SECONDS = 20.0
MAX_SHOWN = 20  # one breach often has hundreds of witnesses
NO_JOBS = Verdict(0, 0, ())


@dataclass(slots=True)
class Report:
    """What came of a run."""

    seed: int
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    blamed: Counter[str] = field(default_factory=Counter)  # failures that a kill explains, by what was killed
    actions: dict[Kind, int] = field(default_factory=dict)
    jobs: Verdict = NO_JOBS
    longest_seconds: float = 0.0
    state_readings: int = 0
    censuses: int = 0

    def lines(self) -> list[str]:
        requests = ", ".join(f"{count} {kind}" for kind, count in sorted(self.requests.items()))
        actions = ", ".join(f"{count} {kind.value}" for kind, count in self.actions.items() if count)
        blamed = ", ".join(f"{count} by {what}" for what, count in sorted(self.blamed.items())) or "none"
        return [
            f"seed {self.seed}, {self.seconds:.0f} s: {actions}",
            f"{sum(self.requests.values())} requests: {requests}; the slowest took {self.longest_seconds:.2f} s",
            f"failed as they had to: {blamed}",
            f"jobs: {self.jobs.finished} finished once, {self.jobs.interrupted} interrupted by their own kill",
            f"{self.state_readings} readings of the state file, {self.censuses} censuses",
            f"{len(self.violations)} violations" + ("" if not self.violations else ":"),
            *(f"VIOLATION {violation}" for violation in self.violations[:MAX_SHOWN]),
        ]


class ChaosRun:
    """One run. It ends early at the first violation: what is found then is fresh."""

    def __init__(
        self,
        seed: int,
        seconds: float,
        pyz: Path | None,
        second_pyz: Path | None,
        output: Callable[[str], None],
        without: Collection[Kind] = (),
    ) -> None:
        self.seed, self.seconds, self.without = seed, seconds, without
        self.builds = (pyz, second_pyz)
        self.result = Report(seed)
        self._output = output
        self._lock = threading.Lock()
        self._violated = threading.Event()
        self._began = time.monotonic()
        self._judged = 0
        self.stage = Stage(())
        self.acts = Acts(self.stage, self._say, self._report)
        self.cron = Cron(self.stage, self.acts.kills, self._say, self._report)
        self.stage.command = python_command(self.acts.installed)
        self.traffic = Traffic(self.stage.port, self.stage.queue, seed)

    def run(self, evidence: Path | None = None) -> Report:
        """Play and judge; nothing is left behind, whatever happens. ``evidence``: where to copy all records to, if
        something is violated."""
        try:
            self._play()
        except AssertionError as error:
            self._report(str(error))
        finally:
            self._violated.set()
            self.result.seconds = time.monotonic() - self._began
            if self.result.violations and evidence is not None:
                keep(self.stage, evidence)
            self.stage.close()
            self.stage.remove()
            self.stage.release_guard()
        return self.result

    def _say(self, text: str) -> None:
        with self._lock:
            self._output(f"{time.monotonic():.3f} {time.monotonic() - self._began:8.3f} s  {text}")

    def _report(self, violation: str) -> None:
        self.result.violations.append(violation)
        self._say(f"VIOLATION {violation}")
        self._violated.set()

    def _play(self) -> None:
        self._say(f"seed {self.seed}: {self.stage.root}, port {self.stage.port}")
        self.acts.begin(two_builds(self.stage.builds_dir, *self.builds))
        self.cron.begin()
        with Watch(self.stage, self._report) as watch:
            with self.traffic:
                self._act()
                self._unless_violated(self.acts.settle)
                self._unless_violated(self._finish_jobs)
            self._judge_failures()
            self.cron.end()
            # Cron may have been at work still.
            self._unless_violated(self.acts.settle)
        self._unless_violated(self._shut_down)
        self._summarise(watch)
        self._unless_violated(self._judge)

    def _unless_violated(self, step: Callable[[], None]) -> None:
        if not self._violated.is_set():
            step()

    def _act(self) -> None:
        plan = Plan(self.seed, self.without)
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            action = plan.next()
            if self._violated.wait(action.pause_seconds):
                return
            self.acts.carry_out(action)
            if action.kind is Kind.SETTLE:
                self._judge_failures()

    def _finish_jobs(self) -> None:
        self.traffic.stop_jobs()
        queue = self.stage.queue
        killed = {kill.who for kill in self.acts.kills}

        def is_done() -> bool:
            return not queue.names("queued") and all(name.split(".")[1] in killed for name in queue.names("taken"))

        # What is not done by then, the verdict will name.
        with contextlib.suppress(NeverHappened):
            wait_until(is_done, "every job is done", timeout=JOBS_SECONDS, poll=0.1)

    def _shut_down(self) -> None:
        began = time.monotonic()
        result = self.stage.run("shutdown", expect=None, timeout=SHUTDOWN_SECONDS)
        self.acts.spans.append(Span("shutdown", began, time.monotonic()))
        self._say(f"shutdown ended with {result.code} after {time.monotonic() - began:.1f} s")
        if result.code != 0:
            self._report(f"shutdown failed: {result}")
        for violation in what_is_left(self.stage):
            self._report(violation)

    # --- verdicts

    def _judge_failures(self) -> None:
        journal = self.traffic.journal
        with journal.lock:
            failures, self._judged = journal.failures[self._judged :], len(journal.failures)
            defects = list(journal.defects)
        for defect in defects:
            self._report(defect)
        known = self._known(failures)
        for failure in failures:
            why = blame(failure, known)
            if why is None:
                begun = known.begun_by.get(failure.request_id)
                self._report(f"a request failed that no kill explains: {failure}; begun by {begun}")
            else:
                self.result.blamed[" ".join(why.split()[:3]).rstrip("0123456789- ")] += 1

    def _known(self, failures: Sequence[Failure]) -> Known:
        lives = self.stage.lives()
        return Known(
            tuple(self.acts.kills),
            self.stage.begun_by(failure.request_id for failure in failures),
            {life.who: life.at for life in lives if life.event == "term"},
            tuple((life.release, life.at) for life in lives if life.event == "listen"),
            HOLD_SECONDS,
        )

    def _judge(self) -> None:
        result, acts, queue = self.result, self.acts, self.stage.queue
        self._judge_failures()
        killed = frozenset(kill.who for kill in acts.kills if kill.role == "jobs")
        queued, taken, runs, done = (queue.names(place) for place in PLACES)
        result.jobs = judge_jobs(self.traffic.jobs, queued, taken, runs, done, killed)
        for violation in result.jobs.violations:
            self._report(violation)
        for violation in judge_lives(self.stage.lives(), acts.kills, acts.spans):
            self._report(violation)
        for request_id in self.stage.repeated("upload"):
            self._report(f"the upload {request_id} was sent to the application twice")
        for violation in judge_logs(self.stage):
            self._report(violation)
        # A run in which nothing was looked at proves nothing.
        for name, count in (("request", sum(result.requests.values())), ("job", len(self.traffic.jobs))):
            if not count:
                self._report(f"there was no {name} at all")

    def _summarise(self, watch: Watch) -> None:
        result, journal = self.result, self.traffic.journal
        result.requests, result.longest_seconds = journal.counts, journal.longest_seconds
        result.actions = self.acts.counts
        result.state_readings, result.censuses = watch.state_readings, watch.censuses


def what_is_left(stage: Stage) -> list[str]:
    """What a shutdown must not leave: processes, sockets, a held lock, a taken port."""
    with contextlib.suppress(NeverHappened):
        wait_until(lambda: not stage.survivors(), "all processes end", timeout=GONE_SECONDS)
    left = [f"left by the shutdown: {line}" for line in stage.survivors()]
    sockets = [*stage.runtime_dir.glob("*.sock"), *([stage.control_path] if stage.control_path.exists() else [])]
    left += [f"left by the shutdown: {path}" for path in sockets]
    for path in (stage.runtime_dir / "daemon.lock", stage.records / "cron.lock", stage.records / "broker.lock"):
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                left.append(f"left by the shutdown: somebody holds {path}")
    if not is_bindable(stage.port):
        left.append(f"left by the shutdown: port {stage.port} is taken")
    return left


def judge_logs(stage: Stage) -> list[str]:
    """The defects of ours that the daemon's and the workers' logs tell of."""
    found = []
    for path in stage.runtime_dir.glob("*.log"):
        text = path.read_text(errors="replace")
        for sign in ("Traceback", "defect in the proxy"):
            if sign in text:
                at = text.index(sign)
                found.append(f"{path.name} tells of a defect of ours: {text[at : at + 2000]}")
    return found


def keep(stage: Stage, evidence: Path) -> None:
    """Copy config, state, logs and records."""
    with contextlib.suppress(shutil.Error):  # sockets cannot be copied, and what ends meanwhile goes away
        shutil.copytree(
            stage.root,
            evidence,
            ignore=shutil.ignore_patterns("*.pyz", "jobs", "releases", "*.sock"),
            dirs_exist_ok=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--pyz", type=Path, help="the build to test (default: this checkout's)")
    parser.add_argument("--second-pyz", type=Path, help="the build to upgrade to and back from")
    parser.add_argument("--log", type=Path, help="write the lines to this file too")
    parser.add_argument("--evidence", type=Path, help="copy all records to this directory when something is violated")
    parser.add_argument(
        "--without", action="append", default=[], choices=[kind.value for kind in Kind], help="leave out"
    )
    options = parser.parse_args(argv)
    without = {Kind(name) for name in options.without}

    def stop(signum: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stop)
    with contextlib.ExitStack() as held:
        file: IO[str] | None = held.enter_context(options.log.open("a")) if options.log else None

        def output(line: str) -> None:
            for stream in (sys.stdout, file):
                if stream is not None:
                    print(line, file=stream, flush=True)

        run = ChaosRun(options.seed, options.seconds, options.pyz, options.second_pyz, output, without)
        report = run.run(options.evidence)
        for line in report.lines():
            output(line)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
