"""The demo as a whole, with the real product behind it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollbridge.runtime import self_command

TOKEN_NAME = "TEST_RUN_OF_ROLLBRIDGE"


def alive(token: str) -> list[str]:
    """Command lines of everything that has ``token`` in its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if f"{TOKEN_NAME}={token}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().decode().replace("\0", " "))
    return found


class DemoProcess:
    def __init__(self, *options: str) -> None:
        self.token = secrets.token_hex(8)
        self.directory: Path | None = None
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*self_command(), "demo", *options],
            env={"PATH": os.environ["PATH"], TOKEN_NAME: self.token},  # HOME is not set
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read_until(self, word: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if "everything of this demo is in" in line:
                self.directory = Path(line.split()[-1])
            if word in line:
                return
        raise AssertionError(f"{word!r} was not printed:\n{''.join(self.lines)}")

    def finish(self) -> str:
        output, errors = self.process.communicate(timeout=60)
        self.lines.append(errors)
        return output

    def assert_nothing_is_left(self) -> None:
        assert alive(self.token) == []
        assert self.directory is not None
        assert not self.directory.exists()


@contextlib.contextmanager
def run_demo(*options: str) -> Iterator[DemoProcess]:
    demo = DemoProcess(*options)
    try:
        yield demo
    finally:
        demo.process.kill()
        demo.process.wait()


@pytest.mark.parametrize("command", ["_demo-app", "_demo-worker"])
def test_app_and_worker_can_be_run_by_the_program_itself(command: str) -> None:
    result = subprocess.run([*self_command(), command, "--help"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"usage: rollbridge {command}")


def test_nothing_fails_and_nothing_is_left() -> None:
    with run_demo("--json") as demo:
        demo.read_until("everything of this demo")
        result = json.loads(demo.finish())
        assert result["problems"] == []
        assert (demo.process.returncode, result["status"]) == (0, "success")
        assert all(kind["requests"] > 0 and kind["failures"] == 0 for kind in result["traffic"])
        assert result["websockets"]["opened"] > 0
        assert result["websockets"]["cut"] == 0
        assert result["jobs"]["done"] == result["jobs"]["queued"] > 0
        demo.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("word", "signum"),
    [
        ("everything of this demo", signal.SIGINT),
        ("deploy v1", signal.SIGTERM),
        ("deploy v2", signal.SIGHUP),
        ("the web process is dead", signal.SIGINT),
    ],
)
def test_interrupted_demo_leaves_nothing(word: str, signum: signal.Signals) -> None:
    with run_demo() as demo:
        demo.read_until("everything of this demo")
        if word != "everything of this demo":
            demo.read_until(word)
        demo.process.send_signal(signum)
        demo.finish()
        assert demo.process.returncode == 128 + signum
        demo.assert_nothing_is_left()


def test_second_interrupt_hurries_and_still_leaves_nothing() -> None:
    with run_demo() as demo:
        demo.read_until("everything of this demo")
        demo.read_until("deploy v2")
        demo.process.send_signal(signal.SIGINT)
        demo.read_until("interrupted")
        demo.process.send_signal(signal.SIGINT)
        demo.finish()
        assert demo.process.returncode == 128 + signal.SIGINT
        demo.assert_nothing_is_left()


def test_reader_who_leaves_ends_the_demo() -> None:
    with run_demo() as demo:
        demo.read_until("everything of this demo")
        assert demo.process.stderr is not None
        demo.process.stderr.close()
        assert demo.process.wait(60) == 128 + signal.SIGPIPE
        demo.assert_nothing_is_left()


def test_kept_directory_is_named_and_has_the_log() -> None:
    with run_demo("--keep") as demo:
        demo.read_until("everything of this demo")
        directory = demo.directory
        assert directory is not None
        try:
            demo.read_until("deploy v2")
            demo.process.send_signal(signal.SIGTERM)
            demo.read_until("kept /")
            demo.finish()
            assert alive(demo.token) == []
            assert (directory / "daemon.log").is_file()
        finally:
            demo.process.kill()
            demo.process.wait()
            shutil.rmtree(directory)
