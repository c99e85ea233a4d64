"""Control groups of processes: decisions anywhere, the rest where this machine lets us make groups."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rollbridge.config.model import GroupLimits
from rollbridge.process.control_groups import (
    ControlGroups,
    Mount,
    find_mount,
    group_directory,
    limit_files,
    missing_for,
    needed_controllers,
)
from rollbridge.process.managed import ManagedProcess, ProcessState, StartFailed, StartReason
from tests.process.support import Bench, bench, is_running, make_spec, python, read_pid, run_async, until

UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
HYBRID = """31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 23 0:28 /lxc/a\\040b /mnt/with\\040blank rw - cgroup2 none rw"""


def why_no_groups() -> str | None:
    """Why none can be made here; None when they can."""
    base = ControlGroups().base()
    if isinstance(base, str):
        return base
    probe = base / f"rollbridge-probe-{os.getpid()}"
    try:
        probe.mkdir()
    except OSError as error:
        return f"{probe}: {error}"
    has_kill = (probe / "cgroup.kill").exists()
    probe.rmdir()
    return None if has_kill else "this kernel has no cgroup.kill"


# Tests that run side by side are applications of different names, as those of one machine are.
NAMED = {"ROLLBRIDGE_APPLICATION": f"test-{os.getpid()}"}
needs_groups = pytest.mark.skipif(why_no_groups() is not None, reason=str(why_no_groups()))


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        (UNIFIED, Mount("/", "/sys/fs/cgroup")),
        (HYBRID, Mount("/lxc/a b", "/mnt/with blank")),
        ("31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory", None),
        ("", None),
        ("nonsense - cgroup2", None),
    ],
)
def test_the_file_system_of_groups_is_found(text: str, mount: Mount | None) -> None:
    assert find_mount(text) == mount


@pytest.mark.parametrize(
    ("mount", "text", "directory"),
    [
        (Mount("/", "/sys/fs/cgroup"), "0::/system.slice/a.service\n", "/sys/fs/cgroup/system.slice/a.service"),
        (Mount("/", "/sys/fs/cgroup"), "4:memory:/x\n0::/\n", "/sys/fs/cgroup"),
        (Mount("/lxc", "/cg"), "0::/lxc/inside\n", "/cg/inside"),
        (Mount("/lxc", "/cg"), "0::/other\n", None),
        (Mount("/", "/cg"), "4:memory:/x\n", None),
        (Mount("/", "/cg"), "0::/gone (deleted)\n", "/cg/gone"),
    ],
)
def test_the_directory_of_a_group_is_found(mount: Mount, text: str, directory: str | None) -> None:
    assert group_directory(mount, text) == (None if directory is None else Path(directory))


def test_limits_are_written_as_the_kernel_reads_them() -> None:
    assert limit_files(GroupLimits()) == {}
    assert limit_files(GroupLimits(2**30, 1.5, 10)) == {
        "memory.max": "1073741824",
        "cpu.max": "150000 100000",
        "pids.max": "10",
    }
    assert limit_files(GroupLimits(cpu_max_cores=0.01)) == {"cpu.max": "1000 100000"}
    assert needed_controllers(GroupLimits(2**30, 1.5, 10)) == ["memory", "cpu", "pids"]


def fake_proc(tmp_path: Path, mountinfo: str, cgroup: str) -> ControlGroups:
    (tmp_path / "mountinfo").write_text(mountinfo)
    (tmp_path / "cgroup").write_text(cgroup)
    return ControlGroups(str(tmp_path))


def fake_base(tmp_path: Path, controllers: str) -> ControlGroups:
    """Groups below a plain directory, as far as that goes: made, found and removed, but nobody is in them."""
    base = tmp_path / "cg"
    base.mkdir()
    (base / "cgroup.controllers").write_text(controllers)
    (base / "cgroup.subtree_control").write_text(controllers)
    return fake_proc(tmp_path, f"1 2 0:1 / {base} rw - cgroup2 none rw", "0::/\n")


def test_without_the_file_system_it_is_said_what_to_do(tmp_path: Path) -> None:
    groups = fake_proc(tmp_path, "", "0::/\n")
    path, problem = groups.open("shop", "0" * 32, GroupLimits(pids_max=7))
    assert path is None
    assert problem is not None
    assert "no cgroup v2 file system" in problem
    assert "Delegate=yes" in problem
    assert (groups.is_news(problem), groups.is_news(problem)) == (True, False)
    assert missing_for({"web": GroupLimits(pids_max=7)}, groups) == [problem]
    assert missing_for({}, groups) == []


def test_doctor_is_told_each_controller_that_is_missing(tmp_path: Path) -> None:
    groups = fake_base(tmp_path, "cpu")
    missing = missing_for({"web": GroupLimits(2**30, 1.0, 7), "side": GroupLimits(cpu_max_cores=1.0)}, groups)
    assert [text.partition(",")[0] for text in missing] == [
        f"processes.web: the controller memory is not available in {tmp_path}/cg",
        f"processes.web: the controller pids is not available in {tmp_path}/cg",
    ]


def test_doctor_is_told_when_the_daemon_itself_is_in_the_way(tmp_path: Path) -> None:
    groups = fake_base(tmp_path, "cpu pids")
    base = tmp_path / "cg"
    (base / "cgroup.subtree_control").write_text("pids")
    (base / "cgroup.procs").write_text("100\n")
    limits = {"web": GroupLimits(cpu_max_cores=1.0, pids_max=7)}
    assert missing_for(limits, groups) == []  # the root group may
    (base / "cgroup.type").write_text("domain")
    [problem] = missing_for(limits, groups)
    assert problem.startswith(f"processes.web: the controller cpu cannot be handed on by {base}")
    assert "DelegateSubgroup" in problem


def test_limits_that_cannot_be_set_leave_a_group_all_the_same(tmp_path: Path) -> None:
    groups = fake_base(tmp_path, "cpu")
    path, problem = groups.open("shop", "a" * 32, GroupLimits(cpu_max_cores=2.0, pids_max=7))
    assert path == tmp_path / "cg" / f"rollbridge-shop-{'a' * 32}"
    assert (path / "cpu.max").read_text() == "200000 100000"
    assert problem is not None
    assert "the controller pids is not available" in problem


def test_empty_groups_of_earlier_daemons_are_removed_and_no_others(tmp_path: Path) -> None:
    groups = fake_base(tmp_path, "")
    base = tmp_path / "cg"
    (base / f"rollbridge-shop-{'b' * 32}").mkdir()
    others = [base / f"rollbridge-shop-two-{'c' * 32}", base / "rollbridge-shop-x", base / "system.slice"]
    for other in others:
        other.mkdir()
    first, _ = groups.open("shop", "1" * 32, GroupLimits())
    (base / f"rollbridge-shop-{'d' * 32}").mkdir()  # of a start that is about to join it
    second, _ = groups.open("shop", "2" * 32, GroupLimits())
    assert first is not None
    assert second is not None
    assert {path for path in base.iterdir() if path.is_dir()} == {
        *others,
        first,
        second,
        base / f"rollbridge-shop-{'d' * 32}",
    }
    groups.close("1" * 32, os.getpid())
    assert not first.exists()
    assert fake_proc(tmp_path, f"1 2 0:1 / {base} rw - cgroup2 none rw", "0::/\n").find("2" * 32, 0) == second


# Leaves the session, the parent and the environment: nothing but the group tells whose it is.
ESCAPE = """
import os, signal, sys, time
directory = sys.argv[1]
signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in sys.argv else signal.SIG_DFL)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        script = f"echo $$ > {directory}/stray.new; mv {directory}/stray.new {directory}/stray; exec sleep 1000"
        os.execve("/bin/sh", ["sh", "-c", script], {"PATH": os.environ["PATH"]})
    os._exit(0)
os.wait()
with open(f"{directory}/leader", "w") as file:
    file.write(str(os.getpid()))
time.sleep(1000)
"""


def escaping(made: Bench, *words: str) -> ManagedProcess:
    command = (*python(ESCAPE), str(made.directory), *words)
    return made.create(make_spec(command, env=NAMED, cgroup=GroupLimits(), graceful_stop_seconds=0.2))


def group_of(pid: int) -> Path:
    mount = find_mount(Path("/proc/self/mountinfo").read_text())
    assert mount is not None
    found = group_directory(mount, Path(f"/proc/{pid}/cgroup").read_text())
    assert found is not None
    return found


@needs_groups
@pytest.mark.parametrize("words", [(), ("deaf",)])
def test_a_stop_ends_whoever_is_in_the_group_and_removes_it(words: tuple[str, ...]) -> None:
    async def work() -> None:
        async with bench() as made:
            process = escaping(made, *words)
            await process.start(StartReason.DEPLOY)
            leader, stray = await read_pid(made.path("leader")), await read_pid(made.path("stray"))
            group = group_of(leader)
            assert group == group_of(stray)
            assert group.name.startswith("rollbridge-")
            await process.stop()
            await until(lambda: not is_running(stray), "the stray is gone")
            assert not is_running(leader)
            assert not group.exists()
            assert not made.said("control group not complete")

    run_async(work())


@needs_groups
def test_membership_outlives_the_daemon_and_the_next_one_ends_and_removes_the_group() -> None:
    async def work() -> None:
        async with bench() as made:
            process = escaping(made)
            await process.start(StartReason.DEPLOY)
            leader, stray = await read_pid(made.path("leader")), await read_pid(made.path("stray"))
            group = group_of(leader)
            made.reaper.groups = ControlGroups()  # the next daemon knows of none
            adopted = made.adopt(process.spec, process.record())
            await adopted.kill()
            await until(lambda: not is_running(stray), "the stray is gone")
            assert not is_running(leader)
            assert not group.exists()

    run_async(work())


@needs_groups
def test_a_crash_leaves_nobody_of_the_group_behind_before_the_restart() -> None:
    async def work() -> None:
        async with bench() as made:
            process = escaping(made)
            await process.start(StartReason.DEPLOY)
            leader, stray = await read_pid(made.path("leader")), await read_pid(made.path("stray"))
            group = group_of(leader)
            os.kill(leader, signal.SIGKILL)
            await until(lambda: len(made.said("process started")) == 2, "it was started again")
            assert not is_running(stray)
            assert not group.exists()
            assert process.pid is not None
            assert group_of(process.pid) != group

    run_async(work())


@needs_groups
def test_a_start_that_fails_leaves_no_group() -> None:
    async def work() -> None:
        async with bench() as made:
            base = made.reaper.groups.base()
            assert isinstance(base, Path)
            process = made.create(make_spec(("no-such-program",), env=NAMED, cgroup=GroupLimits()))
            with pytest.raises(StartFailed, match="was not found in PATH"):
                await process.start(StartReason.DEPLOY)
            await process.stop()
            assert not list(base.glob(f"rollbridge-{NAMED['ROLLBRIDGE_APPLICATION']}-*"))

    run_async(work())


@needs_groups
def test_limits_hold_for_the_tree_where_the_controllers_are_there() -> None:
    limits = GroupLimits(2**26, 0.5, 20)
    missing = missing_for({"web": limits}, ControlGroups())
    if missing:
        pytest.skip(missing[0])

    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec("sleep 1000", env=NAMED, cgroup=limits))
            await process.start(StartReason.DEPLOY)
            if made.said("control group not complete"):
                pytest.skip(str(made.said("control group not complete")[0]["reason"]))
            assert process.pid is not None
            group = group_of(process.pid)
            assert (group / "memory.max").read_text().strip() == str(2**26)
            assert (group / "cpu.max").read_text().strip() == "50000 100000"
            assert (group / "pids.max").read_text().strip() == "20"

    run_async(work())


def test_without_groups_the_same_process_runs_and_it_is_said_once(tmp_path: Path) -> None:
    async def work() -> None:
        async with bench() as made:
            made.reaper.groups = fake_proc(tmp_path, "", "0::/\n")
            for number in range(2):
                spec = make_spec("sleep 1000", cgroup=GroupLimits(pids_max=7), instance_id=f"r1.web.{number}")
                process = made.create(spec)
                await process.start(StartReason.DEPLOY)
                assert process.state is ProcessState.RUNNING
                await process.stop()
            [told] = made.said("control group not complete")
            assert "no cgroup v2 file system" in str(told["reason"])

    run_async(work())
