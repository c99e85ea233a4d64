from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollbridge.demo.product import MARK, CommandFailed, Product, read_log_tail
from tests.demo.waiting import wait_until

# A stand-in for the product: "ensure-daemon" leaves a daemon behind after a moment, "shutdown" ends it.
FAKE = """\
import json, os, pathlib, signal, subprocess, sys, time
command, directory = sys.argv[1], pathlib.Path.cwd()
pid_path = directory / "pid"
if command == "show":
    print(json.dumps({"arguments": sys.argv[1:], "environ": dict(os.environ)}))
    print("one\\ntwo", file=sys.stderr)
elif command == "babble":
    print("no json")
elif command == "ensure-daemon":
    (directory / "begun").touch()
    time.sleep(0.5)
    quiet = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
    daemon = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True, **quiet)
    pid_path.write_text(str(daemon.pid))
elif command == "shutdown":
    if not pid_path.exists():
        sys.exit(3)
    os.kill(int(pid_path.read_text()), signal.SIGKILL)
elif command == "hang":
    print("hanging", file=sys.stderr, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)
    environ = {"PATH": os.environ["PATH"], "LISTEN_FDS": "1", "KEPT": "yes"}
    product = Product([sys.executable, str(fake)], tmp_path / "rollbridge.toml", f"test-{os.getpid()}", environ)
    yield product
    product.kill_processes()


def test_command_gets_config_and_json_and_answers(product: Product, tmp_path: Path) -> None:
    lines: list[str] = []
    result = asyncio.run(product.run("show", "--more", on_line=lines.append))
    assert result.exit_code == 0
    assert result.answer["arguments"] == ["show", "--config", str(tmp_path / "rollbridge.toml"), "--json", "--more"]
    assert lines == ["one", "two"] == list(result.errors)


def test_sockets_meant_for_us_are_not_inherited_and_the_mark_is(product: Product) -> None:
    environ = asyncio.run(product.run("show")).answer["environ"]
    assert "LISTEN_FDS" not in environ
    assert environ["KEPT"] == "yes"
    assert environ[MARK] == f"test-{os.getpid()}"


def test_answer_that_is_no_json_is_reported(product: Product) -> None:
    with pytest.raises(CommandFailed, match="no json"):
        _ = asyncio.run(product.run("babble")).answer


def test_daemon_that_is_just_being_started_is_shut_down_too(product: Product, tmp_path: Path) -> None:
    async def run() -> None:
        starting = asyncio.create_task(product.run("ensure-daemon"))
        while not (tmp_path / "begun").exists():
            await asyncio.sleep(0.01)
        starting.cancel()
        await product.shut_down(asyncio.Event())
        await product.reap()

    asyncio.run(run())
    wait_until(lambda: product.processes() == {})


def test_shutdown_without_a_daemon_ends_at_once(product: Product) -> None:
    begun_at = time.monotonic()
    asyncio.run(product.shut_down(asyncio.Event()))
    assert time.monotonic() - begun_at < 10


def test_hurry_does_not_wait_for_a_command_that_hangs(product: Product) -> None:
    async def run() -> None:
        # Its first line: before that, a cancelled start would end it.
        is_up = asyncio.Event()
        hanging = asyncio.create_task(product.run("hang", on_line=lambda line: is_up.set()))
        await is_up.wait()
        hanging.cancel()
        hurry = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, hurry.set)
        await product.shut_down(hurry)
        assert any("hang" in command for command in product.kill_processes().values())
        await product.reap()

    asyncio.run(run())
    assert product.processes() == {}


def test_everything_that_was_started_is_killed_and_nothing_else(product: Product) -> None:
    async def run() -> None:
        await product.run("ensure-daemon")
        await product.reap()

    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={MARK: "another demo"})
    try:
        asyncio.run(run())
        assert len(product.kill_processes()) == 1
        assert product.processes() == {}
        assert not product.kill(stranger.pid)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_killing_what_is_gone_is_no_error(product: Product) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert not product.kill(child.pid)


def test_log_tail_is_the_end_and_empty_without_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read_log_tail(path) == []
    path.write_text("\n".join(str(number) for number in range(100)))
    assert read_log_tail(path)[-1] == "99"
    assert len(read_log_tail(path)) == 20
