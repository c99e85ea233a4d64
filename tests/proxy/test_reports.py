"""A fault that repeats is said once in a while, with how often it was not said."""

from __future__ import annotations

from rollbridge.proxy.messages import Report
from rollbridge.proxy.reports import MAX_PASSED, MAX_REMEMBERED, REPEAT_SECONDS, ReportThrottle


def test_repetitions_are_counted_and_said_later() -> None:
    throttle = ReportThrottle()
    assert throttle.pass_on("down", {"port": 1}, 0.0) == Report("down", {"port": 1})
    assert throttle.pass_on("down", {"port": 1}, 1.0) is None
    assert throttle.pass_on("down", {"port": 2}, 1.0) == Report("down", {"port": 2})
    assert throttle.pass_on("down", {"port": 1}, 2.0) is None
    assert throttle.pass_on("down", {"port": 1}, REPEAT_SECONDS) == Report("down", {"port": 1, "repeated": 2})


def test_memory_of_what_was_said_is_bounded() -> None:
    throttle = ReportThrottle()
    for number in range(MAX_REMEMBERED * 3):
        assert throttle.pass_on("x", {"n": number}, 0.2 * number) is not None
    assert len(throttle._last) <= MAX_REMEMBERED


def test_ever_new_ones_are_counted_too_when_there_are_many() -> None:
    throttle = ReportThrottle()
    passed = [throttle.pass_on("x", {"error": number}, 0.001 * number) for number in range(1000)]
    assert sum(one is not None for one in passed) == MAX_PASSED
    later = throttle.pass_on("x", {"error": "another"}, REPEAT_SECONDS)
    assert later == Report("x", {"error": "another", "left_out": 1000 - MAX_PASSED})
    assert throttle.pass_on("y", {}, REPEAT_SECONDS) == Report("y", {})
