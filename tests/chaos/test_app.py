"""The application of the chaos run keeps the record that the verdicts rest on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.chaos.census import who
from tests.chaos.stage import APP
from tests.support.http import HttpConnection
from tests.support.ports import free_block
from tests.support.waiting import wait_until


def start(directory: Path, *arguments: str) -> subprocess.Popen[bytes]:
    (directory / "requests").mkdir(exist_ok=True)
    env = {"CHAOS_DIR": str(directory), "ROLLBRIDGE_RELEASE_ID": "r1"}
    return subprocess.Popen([sys.executable, "-S", "-E", str(APP), *arguments], env=env, stdout=subprocess.DEVNULL)


def life(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "life").read_text().splitlines()]


def end(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.kill()
        process.wait()


def test_a_second_singleton_finds_the_lock_held_and_says_by_whom(tmp_path: Path) -> None:
    first = start(tmp_path, "cron")
    try:
        wait_until(lambda: life(tmp_path), "the first one runs")
        second = start(tmp_path, "cron")
        try:
            wait_until(lambda: len(life(tmp_path)) == 3, "the second one runs")
            assert [entry["event"] for entry in life(tmp_path)] == ["start", "double", "start"]
            assert life(tmp_path)[1]["holder"] == who(first.pid)
            assert life(tmp_path)[1]["who"] == who(second.pid)
        finally:
            end(second)
    finally:
        end(first)


def test_the_lock_of_a_killed_singleton_is_free(tmp_path: Path) -> None:
    for _ in range(2):
        process = start(tmp_path, "cron")
        number = len(life(tmp_path)) if (tmp_path / "life").exists() else 0
        wait_until(lambda number=number: len(life(tmp_path)) > number, "it runs")  # type: ignore[misc]
        end(process)
    assert [entry["event"] for entry in life(tmp_path)] == ["start", "start"]


def test_a_web_process_notes_which_requests_it_began_and_ended(tmp_path: Path) -> None:
    port = free_block(1)
    process = start(tmp_path, "web", str(port), "127.0.0.1")
    try:
        wait_until(lambda: life(tmp_path)[-1]["event"] == "listen", "it listens")
        name = who(process.pid)
        with HttpConnection(port) as connection:
            response = connection.request("POST", "/echo", b"body", {"X-Chaos-Id": "u.1"})
            assert (response.body, response.headers["x-who"]) == (b"body", name)
            connection.send_request("GET", "/page?5&100000", headers={"X-Chaos-Id": "k.1"})
            record = tmp_path / "requests" / name
            wait_until(lambda: record.read_text() == "b u.1\ne u.1\nb k.1\n", lambda: record.read_text())
            os.kill(process.pid, signal.SIGTERM)
            process.wait(30)
        assert [entry["event"] for entry in life(tmp_path)] == ["start", "listen", "term", "end"]
    finally:
        end(process)
