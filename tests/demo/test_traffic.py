from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from rollbridge.demo.ledger import Kill, Kind, Ledger
from rollbridge.demo.traffic import Traffic
from tests.demo.test_app import run_app

Play = Callable[[Traffic, Ledger], Awaitable[None]]


def run_traffic(port: int, play: Play) -> Ledger:
    async def run() -> Ledger:
        ledger = Ledger(time.monotonic())
        traffic = Traffic("127.0.0.1", port, ledger, time.monotonic, random.Random(4))
        traffic.start()
        await play(traffic, ledger)
        return ledger

    return asyncio.run(run())


async def wait_for(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.01)


def has_all_kinds(ledger: Ledger) -> bool:
    return all(line.p50_seconds is not None for line in ledger.summaries())


def test_every_kind_of_traffic_passes_against_the_bare_app(tmp_path: Path) -> None:
    async def play(traffic: Traffic, ledger: Ledger) -> None:
        await wait_for(lambda: has_all_kinds(ledger) and ledger.websockets_opened > 8)
        traffic.check()
        await traffic.finish()

    with run_app(tmp_path) as (process, port):
        ledger = run_traffic(port, play)
        assert process.poll() is None
    assert ledger.failures() == []
    assert set(ledger.releases) == {"v1"}
    assert ledger.websockets().cut == 0


def test_kill_excuses_what_was_in_hand_and_refused_connections_are_failures(tmp_path: Path) -> None:
    with run_app(tmp_path) as (process, port):

        async def play(traffic: Traffic, ledger: Ledger) -> None:
            await wait_for(lambda: has_all_kinds(ledger))
            killed_at = time.monotonic()
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            ledger.kill = Kill(process.pid, killed_at, time.monotonic())
            await wait_for(lambda: len(ledger.cut_by_kill()) >= 8 and len(ledger.failures()) > 0)
            await traffic.finish()

        ledger = run_traffic(port, play)
    assert {failure.kind for failure in ledger.cut_by_kill()} >= {Kind.WEBSOCKET, Kind.SLOW}
    assert ledger.websockets().cut == 0
    assert ledger.websockets().cut_by_kill > 0
    # Without a proxy nobody holds the requests that come after the kill: they fail, and nothing excuses that.
    assert ledger.kill is not None
    killed_at = ledger.kill.killed_at
    assert all(failure.sent_at is None or failure.sent_at > killed_at for failure in ledger.failures())


def test_answer_of_a_release_that_is_not_expected_is_a_failure(tmp_path: Path) -> None:
    async def play(traffic: Traffic, ledger: Ledger) -> None:
        traffic.expect("v2")
        await wait_for(lambda: len(ledger.failures()) >= 5)
        await traffic.finish()

    with run_app(tmp_path) as (_, port):
        ledger = run_traffic(port, play)
    assert {failure.reason for failure in ledger.failures()} == {"answered by v1, though all traffic goes to v2"}


def test_cancelled_traffic_leaves_no_task(tmp_path: Path) -> None:
    async def play(traffic: Traffic, ledger: Ledger) -> None:
        await wait_for(lambda: ledger.request_count > 0)
        await traffic.cancel()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with run_app(tmp_path) as (_, port):
        run_traffic(port, play)
