"""The plan of a run is a function of its seed."""

from __future__ import annotations

import collections
import itertools

from tests.chaos.plan import WEIGHTS, Action, Kind, Plan


def first(seed: int, number: int, *without: Kind) -> list[Action]:
    plan = Plan(seed, without)
    return [plan.next() for _ in range(number)]


def test_a_seed_plans_the_same_actions_each_time() -> None:
    assert first(7, 300) == first(7, 300)
    assert first(7, 300) != first(8, 300)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    assert first(7, 300)[:20] == first(7, 20)


def test_a_short_run_does_everything_once() -> None:
    for seed in range(20):
        assert {action.kind for action in first(seed, 2 * len(Kind))} == set(Kind)


def test_over_time_each_kind_comes_as_often_as_it_weighs() -> None:
    total = sum(WEIGHTS.values())
    acts = [action.kind for action in first(3, 5 * total) if action.kind is not Kind.SETTLE][: 3 * total]
    assert collections.Counter(acts) == {kind: 3 * weight for kind, weight in WEIGHTS.items()}


def test_it_settles_now_and_then() -> None:
    settled = [action.number for action in first(5, 500) if action.kind is Kind.SETTLE]
    assert all(6 <= later - earlier <= 10 for earlier, later in itertools.pairwise(settled))


def test_what_is_left_out_does_not_come() -> None:
    assert Kind.UPGRADE not in {action.kind for action in first(1, 300, Kind.UPGRADE)}


def test_a_roll_chooses_any_of_what_is_there_and_nothing_beyond() -> None:
    assert [Action(1, 0.0, Kind.KILL_WEB, roll).choose(3) for roll in (0.0, 0.3, 0.34, 0.99, 1.0)] == [0, 0, 1, 2, 2]
