"""Exit codes that mean "do not restart", and whom a stop reaches by kill_mode."""

from __future__ import annotations

import os
import signal

import pytest

from rollbridge.config.model import KillMode, RestartConfig
from rollbridge.process.managed import ManagedProcess, ProcessState, StartReason
from rollbridge.process.stopping import is_reached
from tests.process.support import bench, is_running, make_spec, python, read_pid, run_async, until


def test_an_exit_with_a_code_that_means_so_is_not_followed_by_a_restart() -> None:
    async def work() -> None:
        async with bench() as made:
            restart = RestartConfig(no_restart_codes=(0, 78))
            process = made.create(make_spec("exit 78", restart=restart))
            await process.start(StartReason.DEPLOY)
            await until(lambda: process.state is ProcessState.FAILED)
            assert process.failure == "r1.web.0 exited with code 78, after which it is not restarted"
            assert made.said("process not restarted")[0]["exit_code"] == 78
            done = made.create(make_spec("sleep 1000 & exit 0", restart=restart, instance_id="r1.done.0"))
            await done.start(StartReason.DEPLOY)
            await until(lambda: done.state is ProcessState.STOPPED)
            assert done.tree_pids() == set()
            assert not made.said("process restarting")
            await process.start(StartReason.MANUAL)  # by hand it is started
            await until(lambda: len(made.said("process started")) == 3)

    run_async(work())


def test_any_other_exit_is_followed_by_a_restart() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec("exit 1", restart=RestartConfig(max_restarts=2, no_restart_codes=(0, 78))))
            await process.start(StartReason.DEPLOY)
            await until(lambda: process.state is ProcessState.FAILED)
            assert len(made.said("process started")) == 3
            assert not made.said("process not restarted")

    run_async(work())


def test_a_companion_that_had_finished_on_probation_stays_down_after_it() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec("exit 0", restart=RestartConfig(no_restart_codes=(0,))), is_probation=True)
            await process.start(StartReason.DEPLOY)
            await until(lambda: process.state is ProcessState.FAILED)
            process.end_probation()
            await until(lambda: process.state is ProcessState.STOPPED)
            assert len(made.said("process started")) == 1

    run_async(work())


@pytest.mark.parametrize(
    ("mode", "reached"),
    [
        (KillMode.TREE, [True, True, True]),
        (KillMode.GROUP, [True, True, False]),
        (KillMode.PROCESS, [True, False, False]),
    ],
)
def test_a_stop_reaches_whom_the_mode_says(mode: KillMode, reached: list[bool]) -> None:
    leader, in_group, elsewhere = (100, 100), (101, 100), (102, 102)
    assert [is_reached(mode, 100, *one) for one in (leader, in_group, elsewhere)] == reached


# Its child stays in the group, its grandchild leaves it; none of them ends by itself.
FAMILY = """
import os, signal, sys, time
directory = sys.argv[1]
def stay(name):
    with open(f"{directory}/{name}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{directory}/{name}.new", f"{directory}/{name}")
    time.sleep(1000)
if os.fork() == 0:
    stay("child")
if os.fork() == 0:
    os.setsid()
    stay("stray")
stay("leader")
"""


@pytest.mark.parametrize(
    ("mode", "left"), [(KillMode.TREE, []), (KillMode.GROUP, ["stray"]), (KillMode.PROCESS, ["child", "stray"])]
)
@pytest.mark.parametrize("is_kill", [False, True])
def test_what_a_stop_leaves_running_is_what_the_mode_leaves(mode: KillMode, left: list[str], is_kill: bool) -> None:
    async def work() -> None:
        async with bench() as made:
            process: ManagedProcess = made.create(make_spec((*python(FAMILY), str(made.directory)), kill_mode=mode))
            await process.start(StartReason.DEPLOY)
            pids = {name: await read_pid(made.path(name)) for name in ("leader", "child", "stray")}
            try:
                await (process.kill() if is_kill else process.stop())
                assert process.state is ProcessState.STOPPED
                for name, pid in pids.items():
                    if name in left:
                        assert is_running(pid), name
                    else:
                        await until(lambda pid=pid: not is_running(pid), f"{name} is gone")  # type: ignore[misc]
            finally:
                for name in left:
                    os.kill(pids[name], signal.SIGKILL)

    run_async(work())
