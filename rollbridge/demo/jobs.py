"""A job queue in a directory, and the worker that empties it: run as ``_demo-worker``.

queued/<job>            waits
taken/<job>.<pid>       a worker has it: taking is one atomic rename, so that only one gets it
runs/<job>.<pid>.<n>    a record of every run, apart from the bookkeeping that it checks
done/<job>              finished
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

IDLE_SECONDS: Final = 0.02
PLACES: Final = ("incoming", "queued", "taken", "runs", "done")


@dataclass(frozen=True, slots=True)
class JobCounts:
    """``lost``: neither done nor waiting; a job that a worker still has counts until it is done."""

    queued: int
    done: int
    duplicated: int
    lost: int


def count_jobs(added: Iterable[str], done: Iterable[str], waiting: Iterable[str], runs: Iterable[str]) -> JobCounts:
    """Compare what was added with where it ended; ``runs`` names a job once per time that it ran."""
    added_jobs, done_jobs = set(added), set(done)
    times = Counter(runs)
    return JobCounts(
        queued=len(added_jobs),
        done=len(done_jobs),
        duplicated=sum(1 for job in times if times[job] > 1),
        lost=len(added_jobs - done_jobs - set(waiting)),
    )


class JobQueue:
    """The directory. Every step is a rename or an exclusive creation, so any number of workers may share it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._runs = 0

    def create(self) -> None:
        for place in PLACES:
            (self._directory / place).mkdir(parents=True)

    def add(self, job: str, seconds: float) -> None:
        """Queue ``job``, which takes ``seconds``."""
        incoming = self._directory / "incoming" / job
        incoming.write_text(json.dumps({"seconds": seconds}), encoding="utf-8")
        incoming.rename(self._directory / "queued" / job)

    def take(self) -> Path | None:
        """The oldest waiting job, from now on ours; None when there is none."""
        for job in sorted(self._names("queued")):
            taken = self._directory / "taken" / f"{job}.{os.getpid()}"
            try:
                (self._directory / "queued" / job).rename(taken)
            except FileNotFoundError:
                continue  # another worker was faster
            return taken
        return None

    def run(self, taken: Path) -> None:
        """Do the work of a job that we took, and mark it done."""
        seconds = float(json.loads(taken.read_text(encoding="utf-8"))["seconds"])
        self._runs += 1
        (self._directory / "runs" / f"{taken.name}.{self._runs}").touch(exist_ok=False)
        time.sleep(seconds)
        taken.rename(self._directory / "done" / taken.name.partition(".")[0])

    def done_count(self) -> int:
        return len(self._names("done"))

    def count(self, added: Iterable[str]) -> JobCounts:
        places = {place: [name.partition(".")[0] for name in self._names(place)] for place in PLACES}
        return count_jobs(added, places["done"], places["queued"], places["runs"])

    def _names(self, place: str) -> list[str]:
        return [path.name for path in (self._directory / place).iterdir()]


class Worker:
    """Takes jobs until told to stop; the job at hand is always finished."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._is_stopping = False  # a plain flag: an Event's lock is not safe to take in a signal handler

    def stop(self, signum: int, frame: FrameType | None) -> None:
        self._is_stopping = True

    def run(self) -> None:
        while not self._is_stopping:
            taken = self._queue.take()
            if taken is None:
                time.sleep(IDLE_SECONDS)
                continue
            self._queue.run(taken)


def main(argv: Sequence[str]) -> int:
    """``_demo-worker --queue DIRECTORY``: work until SIGTERM, then finish the job at hand."""
    parser = argparse.ArgumentParser(prog="rollbridge _demo-worker")
    parser.add_argument("--queue", type=Path, required=True)
    options = parser.parse_args(argv)
    worker = Worker(JobQueue(options.queue))
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, worker.stop)
    sys.stdout.write(f"worker {os.getpid()} takes jobs from {options.queue}\n")
    sys.stdout.flush()
    worker.run()
    return 0
