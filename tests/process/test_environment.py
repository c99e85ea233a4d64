"""What a process really finds in its environment, and what nobody is told of it."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from rollbridge.config.model import EnvFile, EnvSources, LifecycleConfig
from rollbridge.process.environment import LARGEST_SOURCE_BYTES, explain_unsafe, read_env_file
from rollbridge.process.managed import ManagedProcess, ProcessState, StartFailed, StartReason, StartRefused
from tests.process.support import bench, is_running, make_spec, python, read_pid, run_async, until

SHOW = python(
    "import os\nprint(*(f'{n}={os.environ.get(n)}' for n in 'ABCDE'), flush=True)\nimport time; time.sleep(1000)"
)
SECRET = "hunter2-correct-horse"


def sources(
    *files: Path | str, command: tuple[str, ...] | None = None, timeout: float = 20.0, **own: str
) -> EnvSources:
    listed = tuple(EnvFile(str(path).removesuffix("?"), str(path).endswith("?")) for path in files)
    return EnvSources(listed, command, timeout, own)


def shell(text: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", text)


def lines(process: ManagedProcess) -> list[str]:
    return [line.line for line in process.last_lines(50)]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return path


def test_later_sources_win_and_the_own_env_wins_over_all() -> None:
    async def work() -> None:
        async with bench() as made:
            first = write(made.path("1.env"), "B=file1\nC=file1\nD=file1\nE=file1\n")
            second = write(made.path("2.env"), "C=file2\nD=file2\nE=file2\n")
            own = {"E": "own"}
            env = {"A": "inherited", "B": "inherited", **own}
            told = sources(first, second, command=shell('echo "D=$C-command"; echo E=command'), **own)
            process = made.create(make_spec(SHOW, env=env, env_sources=told))
            await process.start(StartReason.DEPLOY)
            await until(lambda: lines(process) == ["A=inherited B=file1 C=file2 D=file2-command E=own"])

    run_async(work())


def test_files_are_read_again_at_each_start() -> None:
    async def work() -> None:
        async with bench() as made:
            path = write(made.path("a.env"), "A=old")
            process = made.create(make_spec(SHOW, env_sources=sources(path)))
            await process.start(StartReason.DEPLOY)
            await until(lambda: "A=old B=None C=None D=None E=None" in lines(process))
            write(path, "A=new")
            await process.restart(StartReason.MANUAL)
            await until(lambda: "A=new B=None C=None D=None E=None" in lines(process))

    run_async(work())


def test_a_missing_file_may_be_missing_only_when_it_is_optional() -> None:
    async def work() -> None:
        async with bench() as made:
            missing = made.path("none.env")
            fine = made.create(make_spec(SHOW, env_sources=sources(f"{missing}?"), instance_id="r1.fine.0"))
            await fine.start(StartReason.DEPLOY)
            process = made.create(make_spec(SHOW, env_sources=sources(missing)))
            with pytest.raises(StartFailed, match=r"none\.env cannot be read: No such file.*end it with"):
                await process.start(StartReason.DEPLOY)
            assert process.state is ProcessState.FAILED
            assert made.said("process did not start")[0]["error"] == process.failure

    run_async(work())


@pytest.mark.parametrize(
    ("mode", "owner", "problem"),
    [
        (stat.S_IFREG | 0o600, 1000, None),
        (stat.S_IFREG | 0o644, 0, None),
        (stat.S_IFREG | 0o620, 1000, "may be written by others (mode 0620); run chmod go-w {path}"),
        (stat.S_IFREG | 0o602, 0, "may be written by others (mode 0602); run chmod go-w {path}"),
        (stat.S_IFREG | 0o600, 1001, "belongs to uid 1001, who could change what is started; run chown 1000 {path}"),
        (stat.S_IFDIR | 0o700, 1000, "is not a regular file; name a file"),
        (stat.S_IFIFO | 0o600, 1000, "is not a regular file; name a file"),
    ],
)
def test_a_file_that_others_may_change_is_refused(mode: int, owner: int, problem: str | None) -> None:
    assert explain_unsafe(mode, owner, uid=1000) == problem


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (f"A=1\n{SECRET}\n".encode(), "line 2 is not NAME=value"),
        (f"A='{SECRET}".encode(), "line 1 opens a quote"),
        (b"A=\xff" + SECRET.encode(), "is not UTF-8"),
        (b"A=" + b"x" * LARGEST_SOURCE_BYTES, "is longer than 1 MiB"),
    ],
)
def test_a_broken_file_is_told_without_a_word_of_it(tmp_path: Path, data: bytes, problem: str) -> None:
    path = write(tmp_path / "a.env", data)
    with pytest.raises(StartFailed) as caught:
        read_env_file(EnvFile(str(path), is_optional=True), os.getuid())
    assert str(caught.value).startswith(f"env_file {path}")
    assert problem in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_writable_file_and_a_fifo_are_refused_and_nobody_waits_for_a_writer(tmp_path: Path) -> None:
    path = write(tmp_path / "a.env", "A=1")
    path.chmod(0o666)
    with pytest.raises(StartFailed, match=rf"may be written by others.*chmod go-w {path}"):
        read_env_file(EnvFile(str(path), is_optional=False), os.getuid())
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(StartFailed, match="not a regular file"):
        read_env_file(EnvFile(str(tmp_path / "fifo"), is_optional=False), os.getuid())


@pytest.mark.parametrize(
    ("command", "timeout", "problem"),
    [
        (f"echo A={SECRET}; echo no such vault >&2; exit 3", 20.0, "env_command exited with code 3"),
        (f"echo A={SECRET}; sleep 1000", 0.2, "env_command did not finish within 0.2 s and was killed"),
        (f"echo {SECRET}", 20.0, "what env_command printed: line 1 is not NAME=value"),
        ("printf 'A=a\\000b\\n'", 20.0, "what env_command printed: line 1 has a NUL"),
        ("exec head -c 3000000 /dev/zero", 20.0, "env_command exited with code 1"),
    ],
)
def test_a_command_that_fails_fails_the_start_without_a_word_of_what_it_printed(
    command: str, timeout: float, problem: str
) -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(SHOW, env_sources=sources(command=shell(command), timeout=timeout)))
            with pytest.raises(StartFailed) as caught:
                await process.start(StartReason.DEPLOY)
            assert problem in str(caught.value)
            assert SECRET not in str(caught.value)
            assert process.state is ProcessState.FAILED
            if "vault" in command:
                await until(lambda: lines(process) == ["no such vault"])

    run_async(work())


def test_a_command_that_is_not_there_is_named() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(SHOW, env_sources=sources(command=("/nonexistent/secrets",))))
            with pytest.raises(StartFailed, match="env_command command /nonexistent/secrets does not exist"):
                await process.start(StartReason.DEPLOY)

    run_async(work())


def test_a_stop_ends_the_command_and_the_start() -> None:
    async def work() -> None:
        async with bench() as made:
            printer = shell(f"echo $$ > {made.path('pid')}; sleep 1000")
            process = made.create(make_spec(SHOW, env_sources=sources(command=printer, timeout=1000.0)))
            starting = asyncio.create_task(process.start(StartReason.DEPLOY))
            pid = await read_pid(made.path("pid"))
            await process.stop()
            with pytest.raises(StartRefused):
                await starting
            await until(lambda: not is_running(pid))  # killed, and gone when the kernel gets to it
            assert process.state is ProcessState.STOPPED
            assert process.pid is None

    run_async(work())


def test_starts_at_the_same_time_start_it_once() -> None:
    async def work() -> None:
        async with bench() as made:
            process = made.create(make_spec(SHOW, env_sources=sources(command=shell("echo A=1"))))
            await asyncio.gather(*(process.start(StartReason.DEPLOY) for _ in range(4)))
            assert len(made.said("process started")) == 1

    run_async(work())


def test_a_hook_has_the_environment_of_the_start_and_after_an_adoption_the_present_one() -> None:
    async def work() -> None:
        async with bench() as made:
            path = write(made.path("a.env"), "A=old")
            hooks = LifecycleConfig(quiet_command="echo hook $A", drain_timeout_seconds=0.0)
            spec = make_spec(SHOW, env_sources=sources(path), lifecycle=hooks)
            process = made.create(spec)
            await process.start(StartReason.DEPLOY)
            write(path, "A=new")
            await process.stop()
            assert "hook old" in lines(process)
            await process.start(StartReason.MANUAL)
            adopted = made.adopt(spec, process.record())
            write(path, "A=newest")
            await adopted.stop()
            assert "hook newest" in lines(adopted)

    run_async(work())


def test_a_path_from_a_file_is_not_shown_when_the_program_is_not_found() -> None:
    async def work() -> None:
        async with bench() as made:
            path = write(made.path("a.env"), f"PATH=/nowhere/{SECRET}")
            process = made.create(make_spec(("no-such-program",), env_sources=sources(path)))
            with pytest.raises(StartFailed, match="as its env_file or env_command sets it") as caught:
                await process.start(StartReason.DEPLOY)
            assert SECRET not in str(caught.value)

    run_async(work())
