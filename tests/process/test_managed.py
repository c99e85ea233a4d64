"""One managed process from start to end, with real programs."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
from pathlib import Path
from typing import cast

import pytest

from rollbridge.config.model import RestartConfig
from rollbridge.process.managed import ManagedProcess, ProcessState, StartFailed, StartReason, StartRefused
from rollbridge.process.table import read_command, scan_processes
from tests.process.support import (
    bench,
    count_entries,
    is_running,
    make_spec,
    memory,
    python,
    read_pid,
    run_async,
    until,
)

TERM_DEAF = "import signal, time, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n"
FOREVER = "time.sleep(1000)\n"


def lines(process: ManagedProcess) -> list[str]:
    return [line.line for line in process.last_lines(50)]


def test_started_process_is_described_as_the_design_says() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec("echo hello; sleep 1000 & wait"))
            await process.start(StartReason.DEPLOY)
            await until(lambda: lines(process) == ["hello"])
            await until(lambda: "sleep 1000" in str(process.snapshot()["children"]))
            shown = process.snapshot(scan_processes())
            assert shown["id"] == "r1.web.0"
            assert shown["state"] == "running"
            assert shown["pid"] == process.pid
            assert shown["last_start_reason"] == "deploy"
            assert shown["restarts"] == 0
            assert shown["exit_code"] is None
            assert isinstance(shown["rss_bytes"], int)
            assert shown["rss_bytes"] > 100_000
            child = cast(list[dict[str, object]], shown["children"])[0]
            assert child["command"] == "sleep 1000"
            assert process.tree_pids() == {process.pid, child["pid"]}
            await process.stop()
            shown = process.snapshot()
            assert (shown["state"], shown["pid"], shown["exit_signal"]) == ("stopped", None, "SIGTERM")

    run_async(work())


def test_environment_and_directory_are_those_of_the_launch(tmp_path: Path) -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec("pwd; echo $ONE; sleep 1000", cwd=str(tmp_path), env={"ONE": "1"}))
            await process.start(StartReason.DEPLOY)
            await until(lambda: lines(process) == [str(tmp_path), "1"])

    run_async(work())


def test_command_that_cannot_start_fails_with_a_sentence() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(("no-such-program",)))
            with pytest.raises(StartFailed, match="was not found in PATH"):
                await process.start(StartReason.DEPLOY)
            assert process.state is ProcessState.FAILED
            assert "was not found" in str(process.failure)
            assert "was not found" in str(made.said("process did not start")[0]["error"])
            await process.stop()
            assert process.state is ProcessState.FAILED

    run_async(work())


def test_string_command_that_is_not_found_says_so_when_it_exits() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec("no-such-program --port 1"), is_probation=True)
            await process.start(StartReason.DEPLOY)
            status = await process.wait_exit()
            assert status.code == 127
            assert "no-such-program" in lines(process)[-1]
            await until(lambda: process.state is ProcessState.FAILED)
            assert "command not found" in str(process.failure)

    run_async(work())


def test_last_lines_are_complete_when_the_exit_is_known() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec("seq 1 1000; printf 'last words' >&2; exit 3"), is_probation=True)
            await process.start(StartReason.DEPLOY)
            assert (await process.wait_exit()).code == 3
            assert {"1000", "last words"} <= set(lines(process))
            assert (await process.wait_exit()).code == 3  # asked again later, the same answer

    run_async(work())


def test_crashed_process_is_started_again_and_says_why() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(("sleep", "1000")))
            await process.start(StartReason.DEPLOY)
            first = process.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await until(lambda: process.pid not in (None, first))
            shown = process.snapshot()
            assert (shown["restarts"], shown["last_start_reason"]) == (1, "crash")
            assert made.said("process exited")[0]["exit_signal"] == "SIGKILL"
            assert made.said("process restarting")[0]["attempt"] == 1

    run_async(work())


def test_it_gives_up_at_the_cap() -> None:
    async def work() -> None:
        async with bench() as made:
            restart = RestartConfig(max_restarts=2, window_seconds=60.0)
            process = made.create(make_spec("exit 5", restart=restart, restart_delay_seconds=0.01))
            await process.start(StartReason.DEPLOY)
            await until(lambda: process.state is ProcessState.FAILED)
            assert len(made.said("process started")) == 3
            assert made.said("process gave up") == [
                {"process": "r1.web.0", "release_id": "r1", "restarts": 2, "window_seconds": 60.0}
            ]
            assert process.failure == "r1.web.0 exited with code 5, and 2 restarts did not help"
            assert process.snapshot()["exit_code"] == 5

    run_async(work())


def test_restart_brings_back_what_gave_up() -> None:
    async def work() -> None:
        async with bench() as made:
            flag = made.path("ready")
            command = f"[ -e {flag} ] && exec sleep 1000; exit 5"
            process = made.create(make_spec(command, restart=RestartConfig(max_restarts=0)))
            await process.start(StartReason.DEPLOY)
            await until(lambda: process.state is ProcessState.FAILED)
            flag.touch()
            await process.restart(StartReason.MANUAL)
            assert process.state is ProcessState.RUNNING
            assert process.snapshot()["last_start_reason"] == "manual"

    run_async(work())


def test_exit_on_probation_is_final_until_probation_ends() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec("exit 0"), is_probation=True)
            await process.start(StartReason.DEPLOY)
            await process.wait_exit()
            await until(lambda: process.state is ProcessState.FAILED)
            assert made.said("process restarting") == []
            process.end_probation()
            await until(lambda: made.said("process restarting"))

    run_async(work())


def test_probation_that_ends_after_a_stop_brings_nothing_back() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec("exit 1"), is_probation=True)
            await process.start(StartReason.DEPLOY)
            await process.wait_exit()
            await process.stop()
            process.end_probation()
            assert made.said("process restarting") == []
            assert process.state is ProcessState.FAILED

    run_async(work())


def test_children_of_a_dead_shell_are_ended_before_the_restart() -> None:
    async def work() -> None:
        async with bench() as made:
            pid_file = made.path("pid")
            process = made.create(make_spec(f"sleep 1000 & echo $! > {pid_file}; wait"))
            await process.start(StartReason.DEPLOY)
            child = await read_pid(pid_file)
            await until(lambda: read_command(child) == "sleep 1000")  # forked first, then it becomes what it is
            pid_file.unlink()
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            second = await read_pid(pid_file)
            assert not is_running(child)
            assert is_running(second)
            (event,) = made.said("survivors asked to stop")
            assert event["pids"] == [child]
            assert event["commands"] == ["sleep 1000"]

    run_async(work())


def test_deaf_children_of_a_dead_shell_are_killed_before_the_restart() -> None:
    async def work() -> None:
        async with bench() as made:
            source = TERM_DEAF + "import os\nprint(os.getpid(), flush=True)\n" + FOREVER
            command = f"{shlex.join(python(source))} & wait"
            process = made.create(make_spec(command, graceful_stop_seconds=0.2))
            await process.start(StartReason.DEPLOY)
            await until(lambda: len(lines(process)) == 2)
            child = int(lines(process)[1])
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            await until(lambda: made.said("process restarting"))
            assert not is_running(child)
            assert made.said("processes killed")[0]["pids"] == [child]

    run_async(work())


def test_stop_during_backoff_cancels_the_restart() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec("exit 1", restart_delay_seconds=3600.0))
            await process.start(StartReason.DEPLOY)
            await until(lambda: made.said("process restarting"))
            assert process.state is ProcessState.STARTING
            await process.stop()
            assert process.state is ProcessState.STOPPED
            assert len(made.said("process started")) == 1

    run_async(work())


def test_manual_restart_during_backoff_does_not_wait_for_it() -> None:
    async def work() -> None:
        async with bench() as made:
            flag = made.path("ready")
            process = made.create(make_spec(f"[ -e {flag} ] && exec sleep 1000; exit 1", restart_delay_seconds=3600.0))
            await process.start(StartReason.DEPLOY)
            await until(lambda: made.said("process restarting"))
            flag.touch()
            await process.restart(StartReason.MANUAL)
            assert process.state is ProcessState.RUNNING

    run_async(work())


def test_process_that_dies_while_it_is_stopped_is_not_resurrected() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(python(TERM_DEAF + FOREVER), graceful_stop_seconds=60.0))
            await process.start(StartReason.DEPLOY)
            await until(lambda: lines(process) == ["deaf"])
            stopping = asyncio.create_task(process.stop())
            await until(lambda: made.said("process asked to stop"))
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)  # crashes between TERM and KILL
            await stopping
            assert process.state is ProcessState.STOPPED
            assert made.said("process restarting") == []

    run_async(work())


def test_restart_while_it_is_stopped_is_refused() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(python(TERM_DEAF + FOREVER), graceful_stop_seconds=0.3))
            await process.start(StartReason.DEPLOY)
            await until(lambda: lines(process) == ["deaf"])
            stopping = asyncio.create_task(process.stop())
            await until(lambda: process.state is ProcessState.STOPPING)
            with pytest.raises(StartRefused):
                await process.restart(StartReason.MANUAL)
            await stopping
            with pytest.raises(StartRefused):
                await process.restart(StartReason.MANUAL)
            assert process.state is ProcessState.STOPPED

    run_async(work())


def test_stop_during_a_restart_wins() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(python(TERM_DEAF + FOREVER), graceful_stop_seconds=0.3))
            await process.start(StartReason.DEPLOY)
            await until(lambda: lines(process) == ["deaf"])
            restarting = asyncio.create_task(process.restart(StartReason.MANUAL))
            await until(lambda: process.state is ProcessState.STOPPING)
            await process.stop()
            with pytest.raises(StartRefused):
                await restarting
            assert process.state is ProcessState.STOPPED
            assert len(made.said("process started")) == 1

    run_async(work())


def test_start_during_a_stop_waits_and_never_runs_two() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(python(TERM_DEAF + FOREVER), graceful_stop_seconds=0.2))
            await process.start(StartReason.DEPLOY)
            first = process.pid
            assert first is not None
            await until(lambda: lines(process) == ["deaf"])
            stopping = asyncio.create_task(process.stop())
            await until(lambda: process.state is ProcessState.STOPPING)
            await process.start(StartReason.DEPLOY)
            assert not is_running(first)
            assert process.state is ProcessState.RUNNING
            await stopping

    run_async(work())


def test_many_callers_at_once_share_one_act() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(("sleep", "1000")))
            await asyncio.gather(*(process.start(StartReason.DEPLOY) for _ in range(5)))
            assert len(made.said("process started")) == 1
            await asyncio.gather(*(process.restart(StartReason.MANUAL) for _ in range(5)))
            assert len(made.said("process started")) == 2
            await asyncio.gather(*(process.stop() for _ in range(5)), process.kill())
            assert len(made.said("process stopped")) == 2
            await process.stop()
            assert process.state is ProcessState.STOPPED

    run_async(work())


def test_caller_that_leaves_does_not_cancel_the_stop() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(python(TERM_DEAF + FOREVER), graceful_stop_seconds=0.2))
            await process.start(StartReason.DEPLOY)
            await until(lambda: lines(process) == ["deaf"])
            leaving = asyncio.create_task(process.stop())
            await until(lambda: process.state is ProcessState.STOPPING)
            leaving.cancel()
            await until(lambda: process.state is ProcessState.STOPPED)

    run_async(work())


def test_redefined_process_uses_the_new_definition_at_its_next_start() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec("echo one; sleep 1000"))
            await process.start(StartReason.DEPLOY)
            process.redefine(make_spec("echo two; sleep 1000"))
            await until(lambda: lines(process) == ["one"])
            await process.restart(StartReason.MANUAL)
            await until(lambda: lines(process) == ["one", "two"])

    run_async(work())


def test_memory_over_the_limit_restarts_and_is_counted() -> None:
    async def work() -> None:
        async with bench() as made:
            hungry = (
                "import time, os\n"
                "x = b'' if os.path.exists('fed') else b'x' * 60_000_000\n"
                "open('fed', 'w').close()\n"
                "time.sleep(1000)\n"
            )
            limits = memory(50_000_000, 30_000_000)
            process = made.create(make_spec(python(hungry), cwd=str(made.directory), memory=limits))
            await process.start(StartReason.DEPLOY)
            await until(lambda: len(made.said("process started")) == 2)
            shown = process.snapshot()
            assert shown["last_start_reason"] == "memory"
            assert shown["memory_restarts"] == 1
            assert shown["last_memory_restart_at"]
            assert made.said("process exited")[0]["expected"] is True
            assert len(made.said("memory warning")) == 1
            (reached,) = made.said("memory limit reached")
            assert isinstance(reached["bytes"], int)
            assert reached["bytes"] >= 50_000_000

    run_async(work())


def test_memory_of_the_whole_tree_counts_and_shared_pages_count_once() -> None:
    async def work() -> None:
        async with bench() as made:
            # 40 MB shared by five processes after a fork: 200 MB by resident size, 40 MB in truth.
            source = "import os, time\nx = b'x' * 40_000_000\nfor _ in range(4):\n    if os.fork() == 0: break\n"
            shared = made.create(make_spec(python(source + FOREVER), memory=memory(120_000_000)))
            # 4 times 30 MB of their own.
            source = "import os, time\nfor _ in range(3):\n    if os.fork() == 0: break\nx = os.urandom(30_000_000)\n"
            apart = made.create(make_spec(python(source + FOREVER), instance_id="r1.web.1", memory=memory(100_000_000)))
            await asyncio.gather(shared.start(StartReason.DEPLOY), apart.start(StartReason.DEPLOY))
            await until(lambda: apart.snapshot()["memory_restarts"])
            assert len(shared.tree_pids()) == 5
            assert shared.snapshot()["memory_restarts"] == 0

    run_async(work())


def test_memory_over_the_limit_on_probation_waits_for_the_deploy() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(("sleep", "1000"), memory=memory(1, interval=0.02)), is_probation=True)
            await process.start(StartReason.DEPLOY)
            await asyncio.sleep(0.1)  # several checks; there is no event to wait for
            assert made.said("memory limit reached") == []
            process.end_probation()
            await until(lambda: made.said("memory limit reached"))

    run_async(work())


def test_descriptors_and_threads_do_not_grow_with_starts_and_stops() -> None:
    async def work() -> None:
        async with bench() as made:

            async def cycle(number: int) -> None:
                process = made.create(make_spec(("sleep", "1000"), instance_id=f"r{number}.web.0"))
                await process.start(StartReason.DEPLOY)
                await process.stop()
                process.discard()

            await cycle(0)
            before = count_entries("/proc/self/fd"), count_entries("/proc/self/task")
            for number in range(1, 15):
                await cycle(number)
            assert (count_entries("/proc/self/fd"), count_entries("/proc/self/task")) == before
            assert list(made.path("output").iterdir()) == []

    run_async(work())


def test_looking_at_the_table_is_cheap() -> None:
    scan_processes()
    began = time.process_time()
    table = scan_processes()
    assert time.process_time() - began < 0.0002 * len(table.rows) + 0.005
