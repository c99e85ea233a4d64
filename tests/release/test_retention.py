from __future__ import annotations

from rollbridge.config.model import RetentionConfig
from rollbridge.release.retention import Retired, releases_to_prune

ENDED = [Retired("a", 10.0), Retired("c", 30.0), Retired("b", 20.0)]


def test_what_fits_is_kept() -> None:
    assert releases_to_prune(ENDED, RetentionConfig(3, 0.0), now=100.0) == ()


def test_the_oldest_go_first() -> None:
    assert releases_to_prune(ENDED, RetentionConfig(1, 0.0), now=100.0) == ("a", "b")


def test_keep_zero_keeps_nothing() -> None:
    assert releases_to_prune(ENDED, RetentionConfig(0, 0.0), now=100.0) == ("a", "b", "c")


def test_age_prunes_what_the_count_would_keep() -> None:
    assert releases_to_prune(ENDED, RetentionConfig(3, 75.0), now=100.0) == ("a", "b")


def test_a_release_of_exactly_the_age_is_kept() -> None:
    assert releases_to_prune(ENDED, RetentionConfig(3, 80.0), now=100.0) == ("a",)


def test_nothing_retired_nothing_pruned() -> None:
    assert releases_to_prune([], RetentionConfig(0, 1.0), now=100.0) == ()
