"""What a process really is and may use: it reports by itself. What needs root is skipped without."""

from __future__ import annotations

import asyncio
import grp
import os
import resource
from pathlib import Path

import pytest

from rollbridge.config.issues import ConfigIssue
from rollbridge.config.model import LifecycleConfig, Limit, Permissions
from rollbridge.process.accounts import Machine, enter_as, forbidden
from rollbridge.process.managed import ManagedProcess, ProcessState, StartFailed, StartReason
from tests.process.support import bench, make_process, make_spec, run_async, until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a process as somebody else")
NOBODY, NOGROUP = 65534, 65534

# A shell, not an interpreter that another user may not be able to reach.
REPORT = """
echo status $(cat /proc/$$/status | tr '\\n' ';')
echo limits $(cat /proc/$$/limits | tr '\\n' ';')
echo umask $(umask)
echo nice $(nice)
echo home $HOME $USER $(pwd)
sleep 1000
"""
LIMIT_TITLES = {
    "nofile": "Max open files",
    "core": "Max core file size",
    "as": "Max address space",
    "cpu": "Max cpu time",
    "nproc": "Max processes",
    "fsize": "Max file size",
    "memlock": "Max locked memory",
    "stack": "Max stack size",
    "data": "Max data size",
}


def lines(process: ManagedProcess) -> list[str]:
    return [line.line for line in process.last_lines(50)]


async def reported(process: ManagedProcess) -> dict[str, str]:
    """What the process says it is, by name: the fields of its status, its limits, umask, nice and home."""
    await process.start(StartReason.DEPLOY)
    await until(lambda: len(lines(process)) == 5, f"it reports; so far {lines(process)}")
    found = dict(line.split(" ", 1) for line in lines(process))
    fields = dict(part.split(":", 1) for part in found["status"].split(";") if ":" in part)
    limits = found.pop("limits").split(";")
    for name, title in LIMIT_TITLES.items():
        [line] = [one.strip() for one in limits if one.strip().startswith(title + " ")]
        found[name] = ":".join(line.removeprefix(title).split()[:2])
    return {**found, **{name.strip(): value.strip() for name, value in fields.items()}}


def test_umask_nice_and_limits_are_what_the_process_sees() -> None:
    async def work() -> None:
        async with bench() as made:
            wanted = Permissions(
                umask=0o027,
                nice=5,
                limits={
                    "nofile": Limit(256, 512),
                    "core": Limit(0, 0),
                    "as": Limit(2**34, 2**35),
                    "cpu": Limit(3600, 7200),
                    "nproc": Limit(1000, 1001),
                    "fsize": Limit(2**30, 2**30),
                    "memlock": Limit(4096, 65536),
                    "stack": Limit(2**22, 2**22),
                    "data": Limit(2**34, 2**34),
                },
            )
            found = await reported(made.create(make_spec(REPORT, permissions=wanted)))
            assert (found["umask"], found["nice"]) == ("0027", "5")
            for name, limit in wanted.limits.items():
                assert found[name] == f"{limit.soft}:{limit.hard}", name
            assert set(wanted.limits) == set(LIMIT_TITLES)
            assert found["Uid"].split() == [str(os.geteuid())] * 4
            # A fresh interpreter was in between, and has left no trace.
            assert int(found["SigIgn"], 16) == int(found["SigBlk"], 16) == 0

    run_async(work())


def test_an_unlimited_limit_is_unlimited() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if hard != resource.RLIM_INFINITY and os.geteuid() != 0:
        pytest.skip("the hard limit of core is not unlimited, and only root may raise it")

    async def work() -> None:
        async with bench() as made:
            found = await reported(
                made.create(make_spec(REPORT, permissions=Permissions(limits={"core": Limit(0, None)})))
            )
            assert found["core"] == "0:unlimited"

    run_async(work())


@needs_root
def test_a_user_brings_its_group_its_groups_and_its_home() -> None:
    async def work() -> None:
        async with bench() as made:
            spec = make_spec(REPORT, permissions=Permissions(user="nobody"), env={"HOME": "/root"})
            found = await reported(made.create(spec))
            assert found["Uid"].split() == [str(NOBODY)] * 4
            assert found["Gid"].split() == [str(NOGROUP)] * 4
            assert sorted(map(int, found["Groups"].split())) == sorted(os.getgrouplist("nobody", NOGROUP))
            assert found["home"] == "/nonexistent nobody /"

    run_async(work())


@needs_root
def test_group_and_supplementary_groups_are_as_written_and_numbers_need_no_account() -> None:
    async def work() -> None:
        async with bench() as made:
            wanted = Permissions(user="12345", group="daemon", supplementary_groups=("54321", "tty"))
            found = await reported(made.create(make_spec(REPORT, permissions=wanted)))
            gid = grp.getgrnam("daemon").gr_gid
            tty = grp.getgrnam("tty").gr_gid
            assert found["Uid"].split() == ["12345"] * 4
            assert found["Gid"].split() == [str(gid)] * 4
            assert sorted(map(int, found["Groups"].split())) == sorted((54321, tty))
            assert found["home"].startswith("/ 12345 ")

    run_async(work())


@needs_root
def test_another_user_can_open_its_output_anew_and_its_hooks_run_as_that_user() -> None:
    async def work() -> None:
        async with bench() as made:
            made.directory.chmod(0o711)
            hooks = LifecycleConfig(quiet_command="echo hook $(id -u) $(umask) >> /dev/stdout")
            wanted = Permissions(user="nobody", umask=0o077, nice=3, limits={"nofile": Limit(64, 64)})
            process = made.create(
                make_spec(
                    "echo work >> /dev/stdout; echo err >> /dev/stderr; sleep 1000", permissions=wanted, lifecycle=hooks
                )
            )
            await process.start(StartReason.DEPLOY)
            await until(lambda: {"work", "err"} <= set(lines(process)))
            await process.stop()
            assert f"hook {NOBODY} 0077" in lines(process)
            # Without a user again, the files are ours again.
            process.redefine(make_spec("echo back >> /dev/stdout; sleep 1000"))
            await process.start(StartReason.MANUAL)
            await until(lambda: "back" in lines(process))
            assert {path.stat().st_uid for path in (made.directory / "output").iterdir()} == {os.geteuid()}

    run_async(work())


def test_what_cannot_be_executed_is_told_by_the_start_and_nothing_is_left() -> None:
    async def work() -> None:
        async with bench() as made:
            wanted = Permissions(umask=0o022)
            process = made.create(make_spec(("no-such-program", "x"), permissions=wanted))
            with pytest.raises(StartFailed, match=r"command 'no-such-program' was not found in PATH"):
                await process.start(StartReason.DEPLOY)
            assert process.state is ProcessState.FAILED
            assert len(made.said("process did not start")) == 1
            assert not made.said("process started")
            missing = made.create(make_spec("x", cwd="/nonexistent/dir", permissions=wanted, instance_id="r1.cwd.0"))
            with pytest.raises(StartFailed, match="working directory /nonexistent/dir may not be entered"):
                await missing.start(StartReason.DEPLOY)
            process.redefine(make_spec("sleep 1000", permissions=wanted))
            await process.start(StartReason.MANUAL)
            assert process.state is ProcessState.RUNNING

    run_async(work())


@needs_root
def test_a_program_the_user_may_not_reach_is_told_with_the_user(tmp_path: Path) -> None:
    async def work() -> None:
        async with bench() as made:
            tmp_path.chmod(0o700)
            program = tmp_path / "program"
            program.write_text("#!/bin/sh\nexit 0\n")
            program.chmod(0o755)
            wanted = Permissions(user="nobody")
            process = made.create(make_spec((str(program),), permissions=wanted))
            with pytest.raises(StartFailed, match="it runs as user nobody, who must be able to reach it"):
                await process.start(StartReason.DEPLOY)
            entered = made.create(make_spec("true", cwd=str(tmp_path), permissions=wanted, instance_id="r1.cwd.0"))
            with pytest.raises(StartFailed, match="may not be entered by user nobody: Permission denied"):
                await entered.start(StartReason.DEPLOY)

    run_async(work())


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        (Permissions(user="no-such-user"), "processes.web.user: there is no user no-such-user on this machine"),
        (Permissions(group="no-such-group"), "processes.web.group: there is no group no-such-group"),
        (Permissions(supplementary_groups=("no-such-group",)), "processes.web.supplementary_groups: there is no group"),
        (Permissions(user="4000000"), "uid 4000000 has no account, so no group either"),
    ],
)
def test_an_account_that_does_not_exist_fails_the_start(wanted: Permissions, problem: str) -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec("true", permissions=wanted))
            with pytest.raises(StartFailed) as caught:
                await process.start(StartReason.DEPLOY)
            assert problem in str(caught.value)
            assert process.failure == str(caught.value)

    run_async(work())


def test_a_daemon_that_is_not_root_is_told_what_it_may_not_do() -> None:
    machine = Machine(uid=1000, hard_limits={"nofile": 4096, "core": None}, lowest_nice=0)
    wanted = Permissions(
        user="deploy", nice=-5, limits={"nofile": Limit(4096, 4097), "core": Limit(None, None), "cpu": Limit(1, 1)}
    )
    problems = forbidden("processes.web", wanted, machine, is_self=False)
    assert [problem.where for problem in problems] == [
        "processes.web.user",
        "processes.web.nice",
        "processes.web.limits.nofile",
    ]
    assert all(isinstance(problem, ConfigIssue) and "root" in problem.text for problem in problems)
    within = Permissions(nice=0, limits={"nofile": Limit(4096, 4096)})
    assert forbidden("processes.web", within, machine, is_self=True) == []
    unlimited = Permissions(limits={"nofile": Limit(1, None)})
    assert len(forbidden("processes.web", unlimited, machine, is_self=True)) == 1


@needs_root
def test_without_root_another_user_is_refused_in_one_sentence_and_its_own_name_is_none() -> None:
    # In a fork, since the interpreter and our sources may be out of that user's reach.
    wishes = [Permissions(user="daemon"), Permissions(nice=-1), Permissions(user="nobody", group=str(NOGROUP))]
    processes = [make_process("x", permissions=wanted) for wanted in wishes]
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(NOGROUP, NOGROUP, NOGROUP)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            for process in processes:
                try:
                    told = str(enter_as(process).is_plain)
                except StartFailed as error:
                    told = str(error)
                os.write(writing, f"{told}\n".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        answers = file.read().splitlines()
    os.waitpid(pid, 0)
    assert answers == [
        f"processes.web.user: only root can start a process as somebody else, and this is uid {NOBODY}; "
        "run the daemon as root, or remove user, group and supplementary_groups",
        f"processes.web.nice: -1 is below 0, the least that uid {NOBODY} may set; "
        "run the daemon as root, or choose 0 or more",
        "True",
    ]


def test_a_stop_while_the_program_is_not_reached_yet_ends_it() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec("sleep 1000", permissions=Permissions(umask=0o022)))
            starting = asyncio.ensure_future(process.start(StartReason.DEPLOY))
            await until(lambda: process.pid is not None)
            await process.stop()
            await asyncio.wait((starting,))
            assert process.state is ProcessState.STOPPED
            assert process.pid is None

    run_async(work())


def test_a_crash_is_started_again_with_the_same_limits() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(
                make_spec("ulimit -n; sleep 1000", permissions=Permissions(limits={"nofile": Limit(99, 99)}))
            )
            await process.start(StartReason.DEPLOY)
            await until(lambda: lines(process) == ["99"])
            assert process.pid is not None
            os.kill(process.pid, 9)
            await until(lambda: lines(process) == ["99", "99"])
            await until(lambda: process.state is ProcessState.RUNNING)

    run_async(work())
