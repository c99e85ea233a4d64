"""Which release, which upstream."""

from __future__ import annotations

from rollbridge.proxy.messages import Route, Target, Upstream
from rollbridge.proxy.routing import active_target, is_ahead, pick_upstream


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


def test_a_worker_that_is_well_ahead_of_any_other_leaves_clients_to_it() -> None:
    assert not is_ahead(1000, [])
    assert not is_ahead(2, [0])
    assert is_ahead(3, [0])
    assert is_ahead(3, [100, 0, 100])
    assert not is_ahead(1127, [1000])
    assert is_ahead(1128, [1000])


def test_somebody_takes_the_next_client_whatever_each_of_them_has() -> None:
    for loads in ([0, 0], [5, 0], [0, 5, 10], [100, 90, 80], [7, 7, 7]):
        takers = [one for at, one in enumerate(loads) if not is_ahead(one, loads[:at] + loads[at + 1 :])]
        assert min(loads) in takers
