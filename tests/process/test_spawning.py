"""Why a program could not be started, in the operator's words."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rollbridge.process.spawning import StartFailed, explain_failure, spawn
from tests.process.support import count_entries

ENV = {"PATH": "/usr/bin:/bin"}


def failure(*argv: str, cwd: str = "/", env: dict[str, str] = ENV) -> str:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        with pytest.raises(StartFailed) as caught:
            spawn(argv, cwd=cwd, env=env, stdout=null, stderr=null)
    finally:
        os.close(null)
    return str(caught.value)


def test_signals_that_are_held_back_for_an_upgrade_are_not_held_back_in_what_is_started_then(tmp_path: Path) -> None:
    told = tmp_path / "told"
    descriptor = os.open(told, os.O_RDWR | os.O_CREAT, 0o600)
    held_back = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    try:
        pid = spawn(["grep", "SigBlk", "/proc/self/status"], cwd="/", env=ENV, stdout=descriptor, stderr=descriptor)
        os.waitpid(pid, 0)
        assert {signal.SIGTERM, signal.SIGCHLD} <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)
        os.close(descriptor)
    assert told.read_text().split() == ["SigBlk:", "0" * 16]


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_command_that_does_not_exist() -> None:
    message = failure("no-such-program")
    assert message.startswith("command 'no-such-program' was not found in PATH (/usr/bin:/bin)")
    assert "command /no/such/program does not exist" in failure("/no/such/program")


def test_relative_command_is_looked_for_in_its_working_directory(tmp_path: Path) -> None:
    assert f"command {tmp_path}/bin/web does not exist" in failure("bin/web", cwd=str(tmp_path))


def test_working_directory_that_is_missing_or_not_one(tmp_path: Path) -> None:
    gone, file, link = tmp_path / "gone", tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to(gone)
    assert f"the working directory {gone} does not exist" in failure("true", cwd=str(gone))
    assert f"the working directory {file} is not a directory" in failure("true", cwd=str(file))
    assert f"the working directory {link} is a symlink that leads nowhere" in failure("true", cwd=str(link))


def test_command_that_is_not_executable_or_a_directory(tmp_path: Path) -> None:
    assert "is not executable; run chmod +x" in failure(script(tmp_path / "web", "#!/bin/sh\n", 0o644))
    assert "is a directory" in failure(str(tmp_path))


def test_not_executable_in_path_is_told_from_not_found(tmp_path: Path) -> None:
    script(tmp_path / "web", "#!/bin/sh\n", 0o644)
    assert "is not executable" in failure("web", env={"PATH": str(tmp_path)})


def test_missing_interpreter_is_named(tmp_path: Path) -> None:
    message = failure(script(tmp_path / "web", "#!/no/such/python\n"))
    assert f"the interpreter /no/such/python of {tmp_path}/web does not exist" in message


def test_file_that_is_no_program(tmp_path: Path) -> None:
    assert "is not a program this machine can run" in failure(script(tmp_path / "web", "hello\n"))


def test_argument_list_that_is_too_long() -> None:
    message = failure("true", "x" * 3_000_000)
    assert "its arguments and environment take 30" in message


def test_nul_byte_is_named() -> None:
    assert "NUL byte" in failure("true", "a\0b")


def test_no_descriptors_left() -> None:
    used = count_entries("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    null = os.open(os.devnull, os.O_RDWR)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    try:
        with pytest.raises(StartFailed, match="no file descriptors are left"):
            spawn(["true"], cwd="/", env=ENV, stdout=null, stderr=null)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(null)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EAGAIN, "no more processes may be created"),
        (errno.ENOMEM, "out of memory"),
        (errno.ENFILE, "descriptors"),
    ],
)
def test_what_the_machine_lacks_is_named(number: int, words: str) -> None:
    assert words in explain_failure(OSError(number, os.strerror(number)), ["true"], "/", ENV)


def test_ignored_and_blocked_signals_are_not_handed_on() -> None:
    program = (
        "import os, signal, subprocess, sys\n"
        "for one in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1): signal.signal(one, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "from rollbridge.process.spawning import normalise_signals, spawn\n"
        "normalise_signals()\n"
        "pid = spawn(['grep', '-E', '^Sig(Blk|Ign)', '/proc/self/status'], cwd='/', env=None, stdout=1, stderr=2)\n"
        "os.waitpid(pid, 0)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    # 32 and 33 belong to the C library's threads.
    masks = {line.split()[0]: int(line.split()[1], 16) & ~(3 << 31) for line in answer.splitlines()}
    assert masks == {"SigBlk:": 0, "SigIgn:": 0}


def test_started_for_ourselves_it_carries_no_instance_mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROLLBRIDGE_INSTANCE", "token")
    monkeypatch.setenv("KEPT", "yes")
    with (tmp_path / "out").open("wb") as out:
        os.waitpid(spawn(["env"], cwd="/", env=None, stdout=out.fileno(), stderr=out.fileno()), 0)
    text = (tmp_path / "out").read_text()
    assert "ROLLBRIDGE_INSTANCE" not in text
    assert "KEPT=yes" in text
