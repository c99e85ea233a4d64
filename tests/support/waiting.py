"""Waiting for conditions: the only place of the tests where time passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

# Long enough for a loaded two-core machine; a passing test never waits that long.
PATIENCE_SECONDS = 20.0
POLL_SECONDS = 0.01


class NeverHappened(AssertionError):
    """A condition did not come true in time."""


def wait_until(
    predicate: Callable[[], Value],
    describe: str | Callable[[], str],
    timeout: float = PATIENCE_SECONDS,
    poll: float = POLL_SECONDS,
) -> Value:
    """Return the first truthy value of ``predicate``; raise NeverHappened with ``describe`` after ``timeout`` seconds.

    An OSError or LookupError in ``predicate`` counts as "not yet": a file, a process or a key that is still to come.
    """
    deadline = time.monotonic() + timeout
    last_error: Exception | None = None
    while True:
        try:
            value = predicate()
        except (OSError, LookupError) as error:
            last_error = error
        else:
            last_error = None
            if value:
                return value
        if time.monotonic() > deadline:
            text = describe if isinstance(describe, str) else describe()
            raise NeverHappened(f"not within {timeout:g} s: {text}") from last_error
        time.sleep(poll)
