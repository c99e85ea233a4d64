"""Restart delays, windows and caps."""

from __future__ import annotations

import pytest

from rollbridge.config.model import RestartConfig
from rollbridge.process.restart import (
    LONGEST_DELAY_SECONDS,
    GiveUp,
    RestartHistory,
    RestartLater,
    backoff_delay,
    decide_restart,
)


def crash_at(config: RestartConfig, times: list[float], delay: float = 1.0) -> list[float | None]:
    """Delays for crashes at ``times``; None where it gave up."""
    history = RestartHistory()
    delays: list[float | None] = []
    for now in times:
        decision = decide_restart(config, delay, history, now)
        if isinstance(decision, GiveUp):
            delays.append(None)
        else:
            history = decision.history
            delays.append(decision.delay_seconds)
    return delays


def test_delay_is_constant_and_restarts_are_unlimited_by_default() -> None:
    assert crash_at(RestartConfig(), [float(n) for n in range(100)]) == [1.0] * 100


def test_delay_grows_by_the_factor_up_to_the_ceiling() -> None:
    config = RestartConfig(backoff_factor=2.0, max_delay_seconds=30.0)
    assert crash_at(config, [0, 1, 2, 3, 4, 5, 6]) == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize("cap", [0, 1, 2])
def test_it_gives_up_at_one_more_than_the_cap(cap: int) -> None:
    delays = crash_at(RestartConfig(max_restarts=cap, window_seconds=60.0), [float(n) for n in range(cap + 1)])
    assert delays == [1.0] * cap + [None]


def test_what_lies_a_whole_window_back_does_not_count() -> None:
    config = RestartConfig(max_restarts=2, window_seconds=60.0, backoff_factor=2.0)
    assert crash_at(config, [0, 1, 59.9]) == [1, 2, None]
    assert crash_at(config, [0, 1, 60.0]) == [1, 2, 2]
    assert crash_at(config, [0, 1, 61.0]) == [1, 2, 1]


def test_without_a_window_every_restart_counts() -> None:
    assert crash_at(RestartConfig(max_restarts=2), [0, 1e6, 1e9]) == [1, 1, None]


def test_giving_up_names_the_figures() -> None:
    config = RestartConfig(max_restarts=1, window_seconds=60.0)
    assert decide_restart(config, 1.0, RestartHistory((5.0,)), 6.0) == GiveUp(1, 60.0)


def test_attempts_count_within_the_window() -> None:
    decision = decide_restart(RestartConfig(window_seconds=10.0), 1.0, RestartHistory((0.0, 95.0)), 100.0)
    assert isinstance(decision, RestartLater)
    assert decision.attempt == 2
    assert decision.history == RestartHistory((95.0, 100.0))


def test_backoff_without_ceiling_ends_at_a_day_and_never_overflows() -> None:
    assert backoff_delay(RestartConfig(backoff_factor=10.0), 1.0, 10_000) == LONGEST_DELAY_SECONDS


def test_no_delay_stays_no_delay() -> None:
    assert backoff_delay(RestartConfig(backoff_factor=2.0), 0.0, 3) == 0.0
