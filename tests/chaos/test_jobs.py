"""The verdict on the jobs: finished exactly once, or visibly interrupted by its own kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.jobs import PLACES, JobQueue, judge_jobs


def test_a_job_that_ran_once_and_is_done_is_finished() -> None:
    verdict = judge_jobs(["j1"], [], [], ["j1.7-70.1"], ["j1.7-70"], set())
    assert verdict == (1, 0, ())


def test_a_job_in_the_hands_of_a_killed_worker_is_interrupted() -> None:
    assert judge_jobs(["j1"], [], ["j1.7-70"], ["j1.7-70.1"], [], {"7-70"}) == (0, 1, ())
    # Killed between taking it and beginning with it.
    assert judge_jobs(["j1"], [], ["j1.7-70"], [], [], {"7-70"}) == (0, 1, ())


@pytest.mark.parametrize(
    ("queued", "taken", "runs", "done", "killed"),
    [
        pytest.param([], [], [], [], set(), id="lost"),
        pytest.param(["j1"], [], [], [], set(), id="never taken"),
        pytest.param([], ["j1.7-70"], ["j1.7-70.1"], [], set(), id="worker ended without a kill"),
        pytest.param([], ["j1.7-70"], ["j1.7-70.1"], [], {"7-71"}, id="another process of that pid was killed"),
        pytest.param([], [], ["j1.7-70.1", "j1.8-80.1"], ["j1.7-70"], set(), id="run twice"),
        pytest.param([], [], ["j1.7-70.1"], ["j1.7-70", "j1.8-80"], set(), id="done twice"),
        pytest.param(["j1"], [], ["j1.7-70.1"], ["j1.7-70"], set(), id="done and queued again"),
        pytest.param([], ["j1.8-80"], ["j1.7-70.1"], ["j1.7-70"], {"8-80"}, id="done and taken again"),
        pytest.param([], [], [], ["j1.7-70"], set(), id="done without a run"),
    ],
)
def test_anything_else_is_a_violation(
    queued: list[str], taken: list[str], runs: list[str], done: list[str], killed: set[str]
) -> None:
    verdict = judge_jobs(["j1"], queued, taken, runs, done, killed)
    assert (verdict.finished, verdict.interrupted) == (0, 0)
    assert len(verdict.violations) == 1
    assert "j1" in verdict.violations[0]


def test_a_job_that_nobody_added_is_a_violation() -> None:
    assert judge_jobs([], [], [], ["j9.7-70.1"], ["j9.7-70"], set()).violations == ("job j9 was never added",)


def test_the_queue_keeps_a_record_that_is_judged_as_it_was(tmp_path: Path) -> None:
    queue = JobQueue(str(tmp_path / "jobs"), "7-70")
    queue.create()
    assert not queue.work()
    queue.add("j2", 0)
    queue.add("j1", 0)
    assert queue.work()
    queued, taken, runs, done = (queue.names(place) for place in PLACES)
    assert (queued, taken, runs, done) == (["j2"], [], ["j1.7-70.1"], ["j1.7-70"])
    assert queue.work()
    assert not queue.work()
    queued, taken, runs, done = (queue.names(place) for place in PLACES)
    assert judge_jobs(["j1", "j2"], queued, taken, runs, done, set()) == (2, 0, ())
