"""The stop sequence carried out on real trees."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time

from rollbridge.config.model import LifecycleConfig
from rollbridge.process.managed import ManagedProcess, ProcessState, StartReason
from rollbridge.process.tree import INSTANCE_VARIABLE
from tests.process.support import bench, is_running, make_spec, python, read_pid, run_async, until

DEAF = "import signal, time, os\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n"
FOREVER = "time.sleep(1000)\n"


def lines(process: ManagedProcess) -> list[str]:
    return [line.line for line in process.last_lines(50)]


def test_app_that_is_deaf_to_term_is_killed_after_its_grace() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(python(DEAF + FOREVER), graceful_stop_seconds=0.3))
            await process.start(StartReason.DEPLOY)
            await until(lambda: lines(process) == ["deaf"])
            pid = process.pid
            began = time.monotonic()
            await process.stop()
            assert 0.3 <= time.monotonic() - began < 5
            assert made.said("processes killed")[0]["pids"] == [pid]
            assert process.snapshot()["exit_signal"] == "SIGKILL"

    run_async(work())


def test_own_stop_signal_reaches_the_whole_group() -> None:
    async def work() -> None:
        async with bench() as made:
            spin = "while :; do sleep 0.01; done"
            command = f"trap 'echo leader; exit 0' USR1; (trap 'echo child; exit 0' USR1; echo up; {spin}) & {spin}"
            process = made.create(make_spec(command, stop_signal=signal.SIGUSR1))
            await process.start(StartReason.DEPLOY)
            await until(lambda: lines(process) == ["up"])
            await process.stop()
            assert {"child", "leader", "up"} <= set(lines(process))  # the shell itself has a word to say as well
            assert made.said("processes killed") == []

    run_async(work())


def test_double_forked_daemon_in_a_session_of_its_own_is_found_and_ended() -> None:
    source = DEAF + (
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        open('daemon', 'w').write(str(os.getpid()))\n"
        "        time.sleep(1000)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )

    async def work() -> None:
        async with bench() as made:
            spec = make_spec(python(source + FOREVER), cwd=str(made.directory), graceful_stop_seconds=0.2)
            process = made.create(spec)
            await process.start(StartReason.DEPLOY)
            daemon = await read_pid(made.path("daemon"))
            await until(lambda: process.tree_pids() == {process.pid, daemon})
            await process.stop()
            assert not is_running(daemon)

    run_async(work())


def test_process_that_belongs_to_nobody_survives_the_stop() -> None:
    async def work() -> None:
        async with bench() as made:
            pid_file = made.path("pid")
            detach = f"{INSTANCE_VARIABLE}=detached setsid sh -c 'echo $$ > {pid_file}; exec sleep 1000' &"
            process = made.create(make_spec(f"({detach}); exec sleep 1000"))
            await process.start(StartReason.DEPLOY)
            detached = await read_pid(pid_file)
            await until(lambda: process.tree_pids() == {process.pid})
            await process.stop()
            assert is_running(detached)
            os.kill(detached, signal.SIGKILL)

    run_async(work())


def test_child_that_needs_its_grace_gets_it_though_the_shell_dies_at_once() -> None:
    async def work() -> None:
        async with bench() as made:
            child = "(trap 'sleep 0.3; echo finished; exit' TERM; echo up; while :; do sleep 0.01; done)"
            process = made.create(make_spec(f"{child} & wait", graceful_stop_seconds=10.0))
            await process.start(StartReason.DEPLOY)
            await until(lambda: lines(process) == ["up"])
            await process.stop()
            assert made.said("processes killed") == []
            assert made.said("survivors asked to stop") == []  # one signal is enough; a second may mean "at once"
            assert made.path("output/r1.web.0.out").read_text() == "up\nfinished\n"

    run_async(work())


def test_indefinite_waits_for_the_work_behind_a_shell_and_a_kill_overrides_it() -> None:
    async def work() -> None:
        async with bench() as made:
            source = DEAF.replace("'deaf'", "os.getpid()") + FOREVER
            command = f"{shlex.join(python(source))} & wait"
            process = made.create(make_spec(command, graceful_stop_seconds=None))
            await process.start(StartReason.DEPLOY)
            await until(lambda: lines(process))
            worker = int(lines(process)[0])
            stopping = asyncio.create_task(process.stop())
            await until(lambda: made.said("process exited"))
            await asyncio.sleep(0.3)  # nothing may happen here, so there is nothing to wait for
            assert is_running(worker)
            assert process.state is ProcessState.STOPPING
            await process.kill()
            await stopping
            assert not is_running(worker)

    run_async(work())


def test_suspended_process_is_continued_to_hear_the_signal() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(("sleep", "1000"), graceful_stop_seconds=30.0))
            await process.start(StartReason.DEPLOY)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGSTOP)
            await until(lambda: any(row.is_suspended for row in made.reaper.table().rows.values()))
            await process.stop()
            assert process.snapshot()["exit_signal"] == "SIGTERM"

    run_async(work())


def test_hooks_run_in_order_with_environment_directory_and_output_of_the_process() -> None:
    lifecycle = LifecycleConfig(
        quiet_command="echo quiet $ONE; pwd",
        drain_command="echo drain $ROLLBRIDGE_PID",
        stop_command="echo stop; kill -TERM -$ROLLBRIDGE_PID",
        drain_timeout_seconds=10.0,
    )

    async def work() -> None:
        async with bench() as made:
            spec = make_spec(("sleep", "1000"), lifecycle=lifecycle, env={"ONE": "1"}, cwd=str(made.directory))
            process = made.create(spec)
            await process.start(StartReason.DEPLOY)
            pid = process.pid
            await process.stop()
            assert lines(process) == ["quiet 1", str(made.directory), f"drain {pid}", "stop"]
            assert [event["hook"] for event in made.said("stop hook started")] == [
                "quiet_command",
                "drain_command",
                "stop_command",
            ]
            assert made.said("stop hook failed") == []
            assert made.said("process asked to stop") == []

    run_async(work())


def test_hooks_that_hang_or_fail_are_events_and_do_not_fail_the_stop() -> None:
    lifecycle = LifecycleConfig(
        quiet_command="exit 9",
        drain_command="sleep 1000",
        stop_command="no-such-command",
        drain_timeout_seconds=0.2,
    )

    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(("sleep", "1000"), lifecycle=lifecycle))
            await process.start(StartReason.DEPLOY)
            await process.stop()
            assert {event["hook"]: event["error"] for event in made.said("stop hook failed")} == {
                "quiet_command": "exited with code 9",
                "drain_command": "did not finish within 0.2 s and was killed",
                "stop_command": "exited with code 127",
            }
            # Nobody had asked it to stop, so the signal was sent after all.
            assert process.snapshot()["exit_signal"] == "SIGTERM"

    run_async(work())


def test_hanging_stop_command_does_not_outlast_the_grace() -> None:
    async def work() -> None:
        async with bench() as made:
            lifecycle = LifecycleConfig(stop_command="sleep 1000")
            spec = make_spec(python(DEAF + FOREVER), lifecycle=lifecycle, graceful_stop_seconds=0.3)
            process = made.create(spec)
            await process.start(StartReason.DEPLOY)
            await until(lambda: lines(process) == ["deaf"])
            await process.stop()
            assert process.snapshot()["exit_signal"] == "SIGKILL"
            assert [one for one in made.said("stop hook failed")[0]["error"].split() if one == "killed"]  # type: ignore[attr-defined]

    run_async(work())


def test_drain_without_command_waits_for_the_exit_up_to_its_timeout() -> None:
    async def work() -> None:
        async with bench() as made:
            flag = made.path("done")
            command = f"while [ ! -e {flag} ]; do sleep 0.01; done; exit 0"
            early = made.create(make_spec(command, lifecycle=LifecycleConfig(drain_timeout_seconds=30.0)))
            late = made.create(
                make_spec(("sleep", "1000"), instance_id="late", lifecycle=LifecycleConfig(drain_timeout_seconds=0.2))
            )
            await asyncio.gather(early.start(StartReason.DEPLOY), late.start(StartReason.DEPLOY))
            stopping = asyncio.gather(early.stop(), late.stop())
            await until(lambda: len(made.said("process draining")) == 2)
            flag.touch()
            await stopping
            assert early.snapshot()["exit_code"] == 0
            assert late.snapshot()["exit_signal"] == "SIGTERM"
            assert [event["process"] for event in made.said("process asked to stop")] == ["late"]

    run_async(work())


def test_exit_during_a_hook_ends_the_sequence_but_survivors_are_still_ended() -> None:
    lifecycle = LifecycleConfig(
        quiet_command="kill -KILL $ROLLBRIDGE_PID; sleep 1000", stop_command="echo never", drain_timeout_seconds=60.0
    )

    async def work() -> None:
        async with bench() as made:
            pid_file = made.path("pid")
            command = f"sleep 1000 & echo $! > {pid_file}; wait"
            process = made.create(make_spec(command, lifecycle=lifecycle, graceful_stop_seconds=60.0))
            await process.start(StartReason.DEPLOY)
            child = await read_pid(pid_file)
            await process.stop()
            assert not is_running(child)
            assert lines(process) == []
            assert child in made.said("survivors asked to stop")[0]["pids"]  # type: ignore[operator]  # a list, as JSON

    run_async(work())


def test_kill_ends_everything_at_once_in_the_middle_of_a_hook() -> None:
    async def work() -> None:
        async with bench() as made:
            pid_file = made.path("pid")
            lifecycle = LifecycleConfig(quiet_command=f"echo $$ > {pid_file}; exec sleep 1000")
            process = made.create(make_spec(("sleep", "1000"), lifecycle=lifecycle, graceful_stop_seconds=None))
            await process.start(StartReason.DEPLOY)
            stopping = asyncio.create_task(process.stop())
            hook = await read_pid(pid_file)
            await process.kill()
            await stopping
            assert process.snapshot()["exit_signal"] == "SIGKILL"
            await until(lambda: not is_running(hook))

    run_async(work())


def test_what_forks_while_it_is_killed_is_killed_too() -> None:
    source = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True)\n"
        "for _ in range(2000):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        time.sleep(1000)\n"
        "    time.sleep(0.005)\n"
    )

    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(python(source), graceful_stop_seconds=0.1))
            await process.start(StartReason.DEPLOY)
            await until(lambda: len(process.tree_pids()) > 20)
            pids = process.tree_pids()
            await process.stop()
            assert not any(is_running(pid) for pid in pids)
            assert process.tree_pids() == set()

    run_async(work())


def test_stops_of_several_processes_run_side_by_side() -> None:
    async def work() -> None:
        async with bench() as made:
            processes = [
                made.create(make_spec(python(DEAF + FOREVER), instance_id=f"r1.web.{n}", graceful_stop_seconds=0.5))
                for n in range(6)
            ]
            await asyncio.gather(*(process.start(StartReason.DEPLOY) for process in processes))
            await until(lambda: all(lines(process) == ["deaf"] for process in processes))
            began = time.monotonic()
            await asyncio.gather(*(process.stop() for process in processes))
            assert time.monotonic() - began < 2.5

    run_async(work())
