"""Every child is waited for, and every exit code reaches the one who asked for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rollbridge.process.exits import ExitStatus
from rollbridge.process.identity import read_identity
from rollbridge.process.reaper import Child
from rollbridge.process.table import scan_processes
from tests.process.support import Bench, bench, count_entries, is_known_to_kernel, python, run_async, until


def spawn(made: Bench, *argv: str) -> Child:
    return made.reaper.spawn(argv, cwd="/", env=None, stdout=1, stderr=2)


def zombies_of(pid: int) -> int:
    """Count the dead children of ``pid`` that nobody has waited for; by /proc, since a minimal server has no ps."""
    zombies = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                zombies += state == "Z" and parent == str(pid)
    return zombies


def test_exit_codes_and_signals_are_told_apart() -> None:
    async def work() -> None:
        async with bench() as made:
            codes = [spawn(made, "sh", "-c", f"exit {code}") for code in (0, 1, 127, 255)]
            killed = spawn(made, "sh", "-c", "kill -9 $$")
            assert [(await child.exit).code for child in codes] == [0, 1, 127, 255]
            assert await killed.exit == ExitStatus(None, signal.SIGKILL)

    run_async(work())


def test_five_hundred_grandchildren_leave_no_zombie_and_steal_no_exit_code() -> None:
    source = (
        "import os\n"
        "for _ in range(500):\n"
        "    if os.fork() == 0:\n"
        "        if os.fork() == 0: os._exit(3)\n"
        "        os._exit(4)\n"
        "for _ in range(500): os.wait()\n"
        "os._exit(7)\n"
    )

    async def work() -> None:
        async with bench() as made:
            watched = [spawn(made, "sh", "-c", f"exit {code}") for code in range(20)]
            parent = spawn(made, *python(source))
            assert (await parent.exit).code == 7
            assert [(await child.exit).code for child in watched] == list(range(20))
            await until(lambda: made.reaper.reaped_orphans >= 500)
            assert zombies_of(os.getpid()) == 0

    run_async(work())


NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]


def can_have_namespaces() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_have_namespaces(), reason="this machine does not let us make a pid namespace")
def test_it_reaps_as_pid_one() -> None:
    program = (
        "import asyncio, os, subprocess\n"
        "from rollbridge.process.clock import SystemClock\n"
        "from rollbridge.process.reaper import Reaper\n"
        "async def main():\n"
        "    assert os.getpid() == 1, os.getpid()\n"
        "    reaper = Reaper(SystemClock()); reaper.start()\n"
        "    child = reaper.spawn(['sh', '-c', 'for i in 1 2 3 4 5; do (sleep 0.01 &) ; done; exit 6'],\n"
        "        cwd='/', env=None, stdout=1, stderr=2)\n"
        "    assert (await child.exit).code == 6\n"
        "    while reaper.reaped_orphans < 5: await asyncio.sleep(0.01)\n"
        "    print('reaped')\n"
        "asyncio.run(main())\n"
    )
    answer = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert answer.stdout == "reaped\n", answer.stderr


def test_own_child_recorded_earlier_keeps_its_exit_code() -> None:
    async def work() -> None:
        async with bench() as made:
            pid = os.posix_spawnp("sh", ["sh", "-c", "sleep 0.05; exit 5"], dict(os.environ))
            identity = read_identity(pid)
            assert identity is not None
            assert (await made.reaper.watch(identity).exit).code == 5

    run_async(work())


def test_own_child_that_was_reaped_a_moment_before_the_watch_keeps_its_exit_code() -> None:
    async def work() -> None:
        async with bench() as made:
            pid = os.posix_spawnp("sh", ["sh", "-c", "exit 5"], dict(os.environ))
            identity = read_identity(pid)
            assert identity is not None
            await until(lambda: not is_known_to_kernel(pid))
            assert (await made.reaper.watch(identity).exit).code == 5

    run_async(work())


def test_end_of_a_process_that_is_not_our_child_is_seen_with_unknown_code(tmp_path: Path) -> None:
    async def work() -> None:
        async with bench() as made:
            holder = subprocess.Popen(
                [sys.executable, "-c", "import subprocess, sys; p = subprocess.Popen(['sleep', '1000']); "
                 "print(p.pid, flush=True); p.wait()"],
                stdout=subprocess.PIPE,
            )  # fmt: skip
            assert holder.stdout is not None
            identity = read_identity(int(holder.stdout.readline()))
            assert identity is not None
            child = made.reaper.watch(identity)
            assert not child.is_own
            await asyncio.sleep(0)
            assert not child.exit.done()
            os.kill(identity.pid, signal.SIGTERM)
            assert await child.exit == ExitStatus(None, None)
            holder.stdout.close()
            await until(lambda: not is_known_to_kernel(holder.pid))
            holder.returncode = 0

    run_async(work())


def test_watch_of_somebody_who_is_gone_ends_at_once() -> None:
    async def work() -> None:
        async with bench() as made:
            child = spawn(made, "true")
            await child.exit
            assert await made.reaper.watch(child.identity).exit == ExitStatus(None, None)

    run_async(work())


def test_hook_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    async def work() -> None:
        async with bench() as made:
            result = await made.reaper.run_hook(
                f"sleep 1000 & echo $! > {tmp_path}/pid; wait",
                cwd="/",
                env=dict(os.environ),
                stdout=1,
                stderr=2,
                timeout_seconds=0.3,
            )
            assert result.error == "did not finish within 0.3 s and was killed"
            pid = int((tmp_path / "pid").read_text())
            await until(lambda: pid not in scan_processes().rows)

    run_async(work())


def test_hook_results_name_what_went_wrong() -> None:
    async def work() -> None:
        async with bench() as made:

            async def hook(command: str, cwd: str = "/") -> str | None:
                result = await made.reaper.run_hook(
                    command, cwd=cwd, env=dict(os.environ), stdout=1, stderr=2, timeout_seconds=10
                )
                return result.error

            assert await hook("true") is None
            assert await hook("exit 4") == "exited with code 4"
            assert await hook("kill -15 $$") == "was ended by SIGTERM"
            assert "does not exist" in str(await hook("true", cwd="/no/such/directory"))

    run_async(work())


def test_many_descriptors_stay_the_same() -> None:
    async def work() -> None:
        async with bench() as made:
            before = count_entries("/proc/self/fd")
            for _ in range(50):
                await spawn(made, "true").exit
            assert count_entries("/proc/self/fd") == before

    run_async(work())
