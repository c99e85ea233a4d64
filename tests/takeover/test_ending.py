"""Ending trees of real processes, and saying why one lives."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping

import pytest

from rollbridge.process.table import ProcessRow, ProcessTable
from rollbridge.takeover import ending
from rollbridge.takeover.ending import Target, end_trees

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a shell script in a session of its own; it has said a line when this returns."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(script: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def session_of(process: subprocess.Popen[bytes], grace_seconds: float) -> Target:
    def members(table: ProcessTable, known: Mapping[int, int]) -> list[ProcessRow]:
        return list(table.sessions.get(process.pid, ()))

    return Target("old", members, signal.SIGTERM, grace_seconds)


def test_a_tree_that_ends_when_asked_is_not_waited_for(start: Start) -> None:
    process = start("sleep 1000 & echo ready; wait")
    assert end_trees([session_of(process, 60.0)]) == []
    assert process.wait() == -signal.SIGTERM


def test_what_does_not_end_is_killed_after_its_time(start: Start) -> None:
    process = start("trap '' TERM; (trap '' TERM; echo ready; while :; do sleep 1; done)")
    assert end_trees([session_of(process, 0.2)]) == []
    assert process.wait() == -signal.SIGKILL


def test_what_is_suspended_is_continued_so_that_it_can_end(start: Start) -> None:
    process = start("trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert end_trees([session_of(process, 30.0)]) == []
    assert process.wait() == 7


def test_who_may_not_be_signalled_is_named_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(identity: object, signum: int) -> bool:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(ending, "signal_identity", refuse)
    process = start("echo ready; exec sleep 1000")
    survivors = end_trees([session_of(process, 60.0)])
    assert [survivor.pid for survivor in survivors] == [process.pid]
    assert "as root with `kill " in survivors[0].why
    assert "sleep 1000" in survivors[0].command


def test_nothing_to_end_is_no_work() -> None:
    assert end_trees([]) == []
    assert end_trees([Target("gone", lambda table, known: [], signal.SIGTERM, 10.0)]) == []
