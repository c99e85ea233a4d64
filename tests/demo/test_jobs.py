from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rollbridge.demo.jobs import JobCounts, JobQueue, count_jobs
from tests.demo.waiting import wait_until


@pytest.fixture
def queue(tmp_path: Path) -> JobQueue:
    queue = JobQueue(tmp_path / "jobs")
    queue.create()
    return queue


def start_worker(directory: Path) -> subprocess.Popen[bytes]:
    code = "import sys; from rollbridge.demo.jobs import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", code, "--queue", str(directory)], stdout=subprocess.DEVNULL)


def test_counts_tell_lost_waiting_and_repeated_jobs_apart() -> None:
    counts = count_jobs(added=["a", "b", "c", "d"], done=["a", "b"], waiting=["c"], runs=["a", "b", "b"])
    assert counts == JobCounts(queued=4, done=2, duplicated=1, lost=1)


def test_only_one_of_two_takers_gets_a_job(queue: JobQueue) -> None:
    queue.add("job-1", 0)
    taken = queue.take()
    assert taken is not None
    assert queue.take() is None
    assert queue.count(["job-1"]) == JobCounts(queued=1, done=0, duplicated=0, lost=1)  # taken, not finished
    queue.run(taken)
    assert queue.count(["job-1"]) == JobCounts(queued=1, done=1, duplicated=0, lost=0)


def test_jobs_are_taken_in_the_order_they_came(queue: JobQueue) -> None:
    for job in ("job-1", "job-2", "job-3"):
        queue.add(job, 0)
    names = [taken.name.partition(".")[0] for _ in range(3) if (taken := queue.take())]
    assert names == ["job-1", "job-2", "job-3"]


def test_job_that_ran_twice_is_found_whatever_the_queue_says(queue: JobQueue) -> None:
    for _ in range(2):
        queue.add("job-1", 0)
        taken = queue.take()
        assert taken is not None
        queue.run(taken)
    assert queue.count(["job-1"]).duplicated == 1


def test_stopped_worker_finishes_its_job_and_takes_no_other(queue: JobQueue, tmp_path: Path) -> None:
    worker = start_worker(tmp_path / "jobs")
    try:
        queue.add("job-1", 0.3)
        queue.add("job-2", 0.3)
        wait_until(lambda: any((tmp_path / "jobs" / "runs").iterdir()))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == 0
    finally:
        worker.kill()
        worker.wait()
    assert queue.count(["job-1", "job-2"]) == JobCounts(queued=2, done=1, duplicated=0, lost=0)


def test_two_workers_share_the_jobs(queue: JobQueue, tmp_path: Path) -> None:
    jobs = [f"job-{number:02}" for number in range(20)]
    for job in jobs:
        queue.add(job, 0.01)
    workers = [start_worker(tmp_path / "jobs") for _ in range(2)]
    try:
        wait_until(lambda: queue.done_count() == len(jobs))
    finally:
        for worker in workers:
            worker.terminate()
            assert worker.wait(10) == 0
    assert queue.count(jobs) == JobCounts(queued=20, done=20, duplicated=0, lost=0)
