"""Memory verdicts."""

from __future__ import annotations

from rollbridge.config.model import MemoryConfig
from rollbridge.process.memory import MemoryDecision, MemoryVerdict, decide_memory, needs_exact_size, tree_size

BOTH = MemoryConfig(limit_bytes=100, warn_bytes=50, check_interval_seconds=1.0)


def test_warning_is_given_once_per_crossing() -> None:
    sizes, verdicts, is_warned = [49, 50, 60, 99, 49, 51], [], False
    for size in sizes:
        decision = decide_memory(BOTH, size, is_warned=is_warned)
        verdicts.append(decision.verdict.value)
        is_warned = decision.is_warned
    assert verdicts == ["fine", "warn", "fine", "fine", "fine", "warn"]


def test_limit_means_restart_at_exactly_the_limit() -> None:
    assert decide_memory(BOTH, 99, is_warned=True).verdict is MemoryVerdict.FINE
    assert decide_memory(BOTH, 100, is_warned=True) == MemoryDecision(MemoryVerdict.RESTART, True)


def test_only_what_is_set_is_judged() -> None:
    assert decide_memory(MemoryConfig(None, 50, 1.0), 10**12, is_warned=True).verdict is MemoryVerdict.FINE
    assert decide_memory(MemoryConfig(100, None, 1.0), 99, is_warned=False).verdict is MemoryVerdict.FINE


def test_exact_sizes_are_needed_only_when_a_threshold_is_in_doubt() -> None:
    assert not needs_exact_size(BOTH, [])
    assert not needs_exact_size(BOTH, [20, 20])  # the sum is below: certainly fine
    assert not needs_exact_size(BOTH, [60, 10])  # one alone is above the warning, all together below the limit
    assert needs_exact_size(BOTH, [30, 30])
    assert needs_exact_size(BOTH, [60, 60])
    assert not needs_exact_size(BOTH, [120, 60])


def test_size_of_a_tree_is_its_shares_but_at_least_its_largest_member() -> None:
    assert tree_size([60, 60]) == 120
    assert tree_size([60, 60], [35, 30]) == 65
    assert tree_size([60, 60], [20, 20]) == 60
    assert tree_size([60, 60], [35, None]) == 95
