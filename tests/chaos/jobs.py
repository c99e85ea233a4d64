"""A job queue in a directory, and the verdict on what became of its jobs.

queued/<job>             waits; the content is how many milliseconds it takes
taken/<job>.<who>        a worker has it: taking is one rename, so that only one gets it
runs/<job>.<who>.<n>     a record of every run, apart from the bookkeeping that it checks
done/<job>.<who>         finished
"""

# Imported by the application, which starts hundreds of times: no pathlib, no dataclasses.
# ruff: noqa: PTH103, PTH104, PTH118, PTH208

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Set
from typing import NamedTuple

PLACES = ("queued", "taken", "runs", "done")


class JobQueue:
    """Every step is a rename or an exclusive creation, so any number of workers may share it, and die in it."""

    def __init__(self, directory: str, who: str) -> None:
        self.directory = directory
        self.who = who
        self.runs = 0

    def create(self) -> None:
        for place in (*PLACES, "incoming"):
            os.makedirs(os.path.join(self.directory, place))

    def add(self, job: str, milliseconds: int) -> None:
        incoming = os.path.join(self.directory, "incoming", job)
        with open(incoming, "w") as file:
            file.write(str(milliseconds))
        os.rename(incoming, os.path.join(self.directory, "queued", job))

    def names(self, place: str) -> list[str]:
        return os.listdir(os.path.join(self.directory, place))

    def work(self) -> bool:
        """Take a job and do it; whether there was one."""
        for job in sorted(self.names("queued")):
            name = f"{job}.{self.who}"
            taken = os.path.join(self.directory, "taken", name)
            try:
                os.rename(os.path.join(self.directory, "queued", job), taken)
            except FileNotFoundError:
                continue  # another worker was faster
            self.runs += 1
            with open(os.path.join(self.directory, "runs", f"{name}.{self.runs}"), "x"):
                pass
            with open(taken) as file:
                time.sleep(int(file.read()) / 1000)
            os.rename(taken, os.path.join(self.directory, "done", name))
            return True
        return False


class Verdict(NamedTuple):
    """``interrupted``: begun by a process that we killed. Every other job that is not finished is a violation."""

    finished: int
    interrupted: int
    violations: tuple[str, ...]


def judge_jobs(
    added: Iterable[str],
    queued: Iterable[str],
    taken: Iterable[str],
    runs: Iterable[str],
    done: Iterable[str],
    killed: Set[str],
) -> Verdict:
    """Say of every job whether it was finished exactly once or visibly interrupted by its own kill.

    The names are those of the directories; ``killed`` are the job workers that got SIGKILL from us.
    """
    waiting = set(queued)
    taken_by = _by_job(taken)
    run_by = _by_job(runs)
    done_by = _by_job(done)
    finished = interrupted = 0
    violations = []
    for job in added:
        times_run = len(run_by.get(job, ()))
        places = [place for place, has in (("queued", job in waiting), ("taken", job in taken_by)) if has]
        if len(done_by.get(job, ())) == 1 and times_run == 1 and not places:
            finished += 1
        elif places == ["taken"] and job not in done_by and times_run <= 1 and set(taken_by[job]) <= killed:
            interrupted += 1
        else:
            violations.append(
                f"job {job}: run {times_run} times by {run_by.get(job, [])}, done by {done_by.get(job, [])}, "
                f"taken by {taken_by.get(job, [])}{', still queued' if job in waiting else ''}"
            )
    strangers = sorted((set(run_by) | set(done_by) | set(taken_by)) - set(added))
    violations += [f"job {job} was never added" for job in strangers]
    return Verdict(finished, interrupted, tuple(violations))


def _by_job(names: Iterable[str]) -> dict[str, list[str]]:
    """``<job>.<who>…`` to the processes that had each job."""
    found: dict[str, list[str]] = {}
    for name in names:
        job, who = name.split(".")[:2]
        found.setdefault(job, []).append(who)
    return found
