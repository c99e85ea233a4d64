from __future__ import annotations

import dataclasses

import pytest

from rollbridge.demo.ledger import AFTER_DEATH_SECONDS, Failure, Kill, Kind, Ledger, is_cut_by_kill, percentile

KILL = Kill(pid=7, killed_at=100.0, dead_at=100.01)
CUT = Failure(Kind.DOWNLOAD, sent_at=99.9, ended_at=100.1, reason="cut", is_cut=True, server_pid=7)


def test_what_the_killed_process_had_in_hand_is_excused() -> None:
    assert is_cut_by_kill(CUT, KILL)
    assert is_cut_by_kill(dataclasses.replace(CUT, server_pid=None), KILL)
    assert is_cut_by_kill(dataclasses.replace(CUT, sent_at=100.0), KILL)
    assert is_cut_by_kill(dataclasses.replace(CUT, ended_at=KILL.dead_at + AFTER_DEATH_SECONDS), KILL)


@pytest.mark.parametrize(
    "failure",
    [
        dataclasses.replace(CUT, sent_at=100.001),  # sent when nobody was there any more: it should have been held
        dataclasses.replace(CUT, sent_at=None),  # not even sent
        dataclasses.replace(CUT, ended_at=99.99),  # ended before the kill
        dataclasses.replace(CUT, ended_at=KILL.dead_at + AFTER_DEATH_SECONDS + 0.01),  # long after it
        dataclasses.replace(CUT, is_cut=False),  # a wrong answer, a timeout, a 503
        dataclasses.replace(CUT, server_pid=8),  # another process answered it
    ],
)
def test_nothing_else_is_excused(failure: Failure) -> None:
    assert not is_cut_by_kill(failure, KILL)


def test_without_a_kill_nothing_is_excused() -> None:
    assert not is_cut_by_kill(CUT, None)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([3.0], 0.5, 3.0), ([3.0], 0.99, 3.0), ([2.0, 1.0], 0.5, 1.0), ([2.0, 1.0], 0.99, 2.0)],
)
def test_percentile_is_one_of_the_values(values: list[float], share: float, expected: float | None) -> None:
    assert percentile(values, share) == expected


def test_p99_of_100_values_leaves_one_out() -> None:
    assert percentile([float(value) for value in range(1, 101)], 0.99) == 99.0


def test_longest_gap_counts_the_silence_at_both_ends() -> None:
    ledger = Ledger(0.0)
    ledger.begin(10.0)
    ledger.succeeded(Kind.SLOW, 10.0, 13.0, "v1")
    ledger.succeeded(Kind.SLOW, 10.0, 14.0, "v1")
    ledger.finish(19.0)
    ledger.succeeded(Kind.SLOW, 18.0, 29.5, "v1")  # only lets the demo wait, for nothing else was asked
    gaps = {line.label: line.longest_gap_seconds for line in ledger.summaries()}
    assert gaps["slow answer"] == gaps["total"] == 5.0
    assert gaps["upload"] == 9.0


def test_summaries_count_failures_and_kill_apart() -> None:
    ledger = Ledger(0.0)
    ledger.succeeded(Kind.DOWNLOAD, 1.0, 1.5, "v1")
    ledger.failed(CUT)
    ledger.failed(dataclasses.replace(CUT, is_cut=False))
    assert len(ledger.failures()) == 2  # nobody has been killed so far
    ledger.kill = KILL
    line = next(line for line in ledger.summaries() if line.label == "download")
    assert (line.requests, line.failures, line.cut_by_kill) == (3, 1, 1)
    assert (line.p50_seconds, line.p99_seconds) == (0.5, 0.5)
    assert ledger.summaries()[-1].requests == ledger.request_count == 3


def test_cut_websockets_are_counted_apart_from_failed_handshakes() -> None:
    ledger = Ledger(0.0)
    ledger.kill = KILL
    cut = dataclasses.replace(CUT, kind=Kind.WEBSOCKET)
    ledger.failed(cut)  # a handshake
    ledger.failed(cut, is_websocket_cut=True)
    ledger.failed(dataclasses.replace(cut, server_pid=8), is_websocket_cut=True)
    websockets = ledger.websockets()
    assert (websockets.cut, websockets.cut_by_kill) == (1, 1)
    assert len(ledger.failures()) == 1
