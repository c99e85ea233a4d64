"""A daemon is killed, and the next goes on with what it left: the same pids, watched by one who is not their parent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rollbridge.config.model import RestartConfig
from rollbridge.process.managed import ManagedProcess, ProcessState, StartReason
from tests.process.support import Bench, bench, is_running, make_spec, memory, run_async, until

# Stands for a service manager: orphans of a killed daemon fall to it and not to us.
NANNY = """
import os, subprocess, sys
from rollbridge.process.linux import become_subreaper
become_subreaper()
daemon = subprocess.Popen([sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
print(daemon.pid, flush=True)
while True:
    try: os.wait()
    except ChildProcessError: break
"""

EARLIER_DAEMON = """
import asyncio, json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.process.support import Bench, make_spec
from rollbridge.config.model import RestartConfig
from rollbridge.process.managed import StartReason
async def main():
    made = Bench(Path(sys.argv[1]))
    made.reaper.start()
    process = made.create(make_spec(sys.argv[2], cwd=sys.argv[1]))
    await process.start(StartReason.DEPLOY)
    while not (made.directory / "ready").exists(): await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    text = json.dumps(process.record())
    (made.directory / "record.tmp").write_text(text)
    (made.directory / "record.tmp").rename(made.directory / "record")
    await asyncio.sleep(1000)
asyncio.run(main())
"""


@asynccontextmanager
async def killed_daemon(made: Bench, command: str) -> AsyncIterator[dict[str, Any]]:
    """Let another daemon start ``command`` (which creates ``ready``), kill that daemon, and give what it recorded."""
    root = str(Path(__file__).parents[2])
    nanny = subprocess.Popen(
        [sys.executable, "-c", NANNY, EARLIER_DAEMON, str(made.directory), command, root],
        stdout=subprocess.PIPE,
        cwd=root,
    )
    nanny.returncode = 0  # our reaper waits for it
    try:
        assert nanny.stdout is not None
        daemon = int(nanny.stdout.readline())
        await until(made.path("record").exists)
        record: dict[str, Any] = json.loads(made.path("record").read_text())
        os.kill(daemon, signal.SIGKILL)
        await until(lambda: not is_running(daemon))
        yield record
    finally:
        nanny.stdout.close() if nanny.stdout else None
        with contextlib.suppress(ProcessLookupError):
            os.kill(nanny.pid, signal.SIGKILL)


def lines(process: ManagedProcess) -> list[str]:
    return [line.line for line in process.last_lines(50)]


def adopt(made: Bench, record: Mapping[str, object], command: str, **changes: Any) -> ManagedProcess:
    return made.adopt(make_spec(command, cwd=str(made.directory), **changes), record)


SERVER = "echo up; touch ready; while :; do [ -e more ] && echo more && rm more; sleep 0.02; done"


def test_adopted_process_is_the_same_and_behaves_like_a_started_one() -> None:
    async def work() -> None:
        async with bench() as made, killed_daemon(made, SERVER) as record:
            process = adopt(made, record, SERVER)
            pid = record["pid"]
            assert process.is_alive
            assert process.state is ProcessState.RUNNING
            shown = process.snapshot()
            assert (shown["pid"], shown["adopted"], shown["last_start_reason"]) == (pid, True, "deploy")
            assert shown["started_at"] == record["started_at"]
            made.path("more").touch()
            await until(lambda: lines(process) == ["up", "more"])

            os.kill(pid, signal.SIGKILL)  # a crash: seen, and answered
            await until(lambda: process.pid not in (None, pid))
            (event,) = made.said("process exited")
            assert event["description"] == "ended with an unknown exit code"
            shown = process.snapshot()
            assert (shown["restarts"], shown["last_start_reason"], shown["adopted"]) == (1, "crash", False)

    run_async(work())


def test_adopted_tree_is_stopped_with_those_who_left_it() -> None:
    stray = "(setsid sh -c 'echo $$ > stray; exec sleep 1000' &); "

    async def work() -> None:
        async with bench() as made, killed_daemon(made, stray + SERVER) as record:
            stray_pid = int(made.path("stray").read_text())
            process = adopt(made, record, SERVER)
            assert {record["pid"], stray_pid} <= process.tree_pids()
            await process.stop()
            assert not is_running(stray_pid)
            assert not is_running(record["pid"])
            assert process.state is ProcessState.STOPPED
            assert [event["signal"] for event in made.said("process asked to stop")] == ["SIGTERM"]

    run_async(work())


def test_adopted_process_keeps_its_memory_limit() -> None:
    async def work() -> None:
        async with bench() as made, killed_daemon(made, SERVER) as record:
            process = adopt(made, record, SERVER, memory=memory(1))
            await until(lambda: process.snapshot()["last_start_reason"] == "memory")

    run_async(work())


def test_what_died_meanwhile_is_said_and_its_survivors_end_before_a_start() -> None:
    command = "sh -c 'echo $$ > child; exec sleep 1000' & " + SERVER

    async def work() -> None:
        async with bench() as made, killed_daemon(made, command) as record:
            child = int(made.path("child").read_text())
            os.kill(record["pid"], signal.SIGKILL)
            await until(lambda: not is_running(record["pid"]))
            process = adopt(made, record, SERVER)
            assert not process.is_alive
            assert process.state is ProcessState.FAILED
            assert process.failure == "r1.web.0 ended while no daemon was watching"
            assert is_running(child)
            await process.start(StartReason.CRASH)
            assert not is_running(child)
            assert process.is_alive
            assert process.snapshot()["restarts"] == 1

    run_async(work())


@pytest.mark.parametrize("forgery", [{"start_ticks": 1}, {"boot_id": "earlier"}, {"start_ticks": None}])
def test_stranger_named_by_the_state_file_is_never_signalled(forgery: dict[str, object]) -> None:
    async def work() -> None:
        async with bench() as made:
            stranger = subprocess.Popen(["sh", "-c", "sleep 1000 & wait"], start_new_session=True)
            try:
                real = made.create(make_spec(SERVER, cwd=str(made.directory)))
                await real.start(StartReason.DEPLOY)
                record = {**real.record(), "instance": "other", "pid": stranger.pid, **forgery}
                process = adopt(made, record, SERVER, instance_id="r1.web.1")
                assert not process.is_alive
                assert process.tree_pids() == set()
                await process.stop()
                await process.kill()
                assert is_running(stranger.pid)
                await process.start(StartReason.CRASH)  # nor does a start take it for a leftover
                assert is_running(stranger.pid)
                assert made.said("survivors asked to stop") == []
                assert made.said("processes killed") == []
            finally:
                os.killpg(stranger.pid, signal.SIGKILL)
                stranger.returncode = 0

    run_async(work())


def test_own_child_is_adopted_with_its_exit_code_known() -> None:
    """As after an upgrade in place: the same pid, so the children are still its own."""

    async def work() -> None:
        async with bench() as made:
            first = made.create(make_spec("while [ ! -e end ]; do sleep 0.01; done; exit 6", cwd=str(made.directory)))
            await first.start(StartReason.DEPLOY)
            record = json.loads(json.dumps(first.record()))
            made.outputs.unfollow(first.output)
            assert first._watch_task is not None
            first._watch_task.cancel()
            second = adopt(made, record, "sleep 1000")
            made.path("end").touch()
            assert (await second.wait_exit()).code == 6
            made.processes.remove(first)

    run_async(work())


def test_counters_and_history_are_kept() -> None:
    async def work() -> None:
        async with bench() as made:
            restart = RestartConfig(max_restarts=2)
            process = made.create(make_spec("exit 1", restart_delay_seconds=0.01, restart=restart))
            await process.start(StartReason.DEPLOY)
            await until(lambda: process.state is ProcessState.FAILED)
            record = process.record()
            assert record["pid"] is None
            adopted = adopt(made, json.loads(json.dumps(record)), "sleep 1000")
            assert adopted.state is ProcessState.FAILED
            shown = adopted.snapshot()
            assert shown["restarts"] == 2
            assert shown["exit_code"] == 1
            assert adopted.record()["restart_times"] == record["restart_times"]

    run_async(work())


def test_a_start_that_was_announced_and_never_recorded_is_found_by_its_mark() -> None:
    async def work() -> None:
        async with bench() as made, killed_daemon(made, SERVER) as record:
            announced = {**record, "pid": None, "start_ticks": None, "state": "starting", "started_at": None}
            process = adopt(made, announced, SERVER)
            assert process.is_alive
            assert process.pid == record["pid"]

    run_async(work())


def test_a_start_that_was_announced_and_did_not_happen_is_none() -> None:
    async def work() -> None:
        async with bench() as made, killed_daemon(made, SERVER) as record:
            announced = {**record, "pid": None, "start_ticks": None, "instance": "0" * 32}
            process = adopt(made, announced, SERVER)
            assert not process.is_alive
            assert is_running(record["pid"])
            os.kill(record["pid"], signal.SIGKILL)

    run_async(work())


def test_a_start_is_announced_with_its_mark_before_it_happens() -> None:
    async def work() -> None:
        async with bench() as made:
            announced: list[dict[str, object]] = []
            process = ManagedProcess(
                make_spec("exec sleep 1000"),
                **made.wiring(),
                before_start=lambda: announced.append(process.record()),
            )
            made.processes.append(process)
            await process.start(StartReason.DEPLOY)
            (told,) = announced
            assert told["pid"] is None
            assert told["instance"] == process.record()["instance"]
            assert process.record()["pid"] == process.pid

    run_async(work())
