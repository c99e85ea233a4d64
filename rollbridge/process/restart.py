"""When a crashed process is started again: pure decisions over times in monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass

from rollbridge.config.model import RestartConfig

LONGEST_DELAY_SECONDS = 86_400.0  # a backoff without ceiling ends at a day; beyond that nobody waits for it


@dataclass(frozen=True, slots=True)
class RestartHistory:
    """When this process was restarted after crashes, oldest first."""

    restart_times: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RestartLater:
    """Start again after ``delay_seconds``; ``attempt`` counts the restarts within the window, this one included."""

    delay_seconds: float
    attempt: int
    history: RestartHistory


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No more: ``restarts`` restarts within the window (0: since it was first started) did not help."""

    restarts: int
    window_seconds: float


def decide_restart(
    config: RestartConfig, restart_delay_seconds: float, history: RestartHistory, now: float
) -> RestartLater | GiveUp:
    """What to do with a process that crashed at ``now``.

    Restarts older than the window are forgotten, for the cap and for the backoff alike: a process that ran well for
    a whole window starts over with the plain delay.
    """
    recent = tuple(
        moment for moment in history.restart_times if not config.window_seconds or now - moment < config.window_seconds
    )
    if config.max_restarts is not None and len(recent) >= config.max_restarts:
        return GiveUp(len(recent), config.window_seconds)
    delay = backoff_delay(config, restart_delay_seconds, len(recent))
    # Without window and cap every restart ever would be kept; only their number matters, and only up to the ceiling.
    return RestartLater(delay, len(recent) + 1, RestartHistory((*recent, now)[-10_000:]))


def backoff_delay(config: RestartConfig, restart_delay_seconds: float, restarts_so_far: int) -> float:
    """``restart_delay`` times ``backoff_factor`` per earlier restart, up to ``max_delay``."""
    ceiling = config.max_delay_seconds or LONGEST_DELAY_SECONDS
    try:
        delay = restart_delay_seconds * config.backoff_factor**restarts_so_far
    except OverflowError:
        delay = ceiling
    # A ceiling below the plain delay is the ceiling: it is what the operator wrote.
    return min(delay, ceiling)
