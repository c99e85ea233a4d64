"""Which release, which upstream."""

from __future__ import annotations

from rollbridge.proxy.messages import Route, Target, Upstream
from rollbridge.proxy.routing import active_target, pick_upstream


def test_the_active_release_is_found_or_nothing() -> None:
    old = Target("r1", (Upstream("127.0.0.1", 1),))
    new = Target("r2", (Upstream("127.0.0.1", 2),))
    assert active_target(Route(1, "r2", "", (old, new))) is new
    assert active_target(Route(1, None, "stopped", (old, new))) is None
    assert active_target(Route(1, None)) is None


def test_the_least_loaded_upstream_is_picked_and_those_that_take_nothing_never() -> None:
    assert pick_upstream([], 0) is None
    assert pick_upstream([None, None], 1) is None
    assert pick_upstream([3, 1, 2], 0) == 1
    assert pick_upstream([3, None, 2], 5) == 2
    assert pick_upstream([None, 900], 0) == 1


def test_equals_take_turns() -> None:
    assert [pick_upstream([4, 4, 4], turn) for turn in range(6)] == [0, 1, 2, 0, 1, 2]
    assert {pick_upstream([1, None, 1], turn) for turn in range(6)} == {0, 2}
