"""What to do about the memory of a process tree: pure decisions over byte counts.

The memory of a tree is at least that of its largest member and at most the sum of all: pages shared after a fork are in
every member's resident size. Only when a threshold lies between the two is it worth asking the kernel for the
proportional size (PSS), which counts shared pages once.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from rollbridge.config.model import MemoryConfig


class MemoryVerdict(enum.Enum):
    FINE = "fine"
    WARN = "warn"  # crossed the warning mark just now; said once per crossing
    RESTART = "restart"  # at or above the limit


@dataclass(frozen=True, slots=True)
class MemoryDecision:
    verdict: MemoryVerdict
    is_warned: bool  # to be passed in next time


def needs_exact_size(config: MemoryConfig, rss_bytes: Sequence[int]) -> bool:
    """Whether the resident sizes alone leave open on which side of a threshold the tree is."""
    largest, total = max(rss_bytes, default=0), sum(rss_bytes)
    return any(
        threshold is not None and largest < threshold <= total for threshold in (config.limit_bytes, config.warn_bytes)
    )


def tree_size(rss_bytes: Sequence[int], pss_bytes: Sequence[int | None] = ()) -> int:
    """Best figure for the tree's memory; a member without PSS counts with its resident size."""
    if not pss_bytes:
        return sum(rss_bytes)
    shares = (rss if pss is None else pss for rss, pss in zip(rss_bytes, pss_bytes, strict=True))
    return max(sum(shares), max(rss_bytes, default=0))


def decide_memory(config: MemoryConfig, size_bytes: int, *, is_warned: bool) -> MemoryDecision:
    """Verdict on a tree of ``size_bytes``; the warning is armed again when the size falls below its mark."""
    is_above = config.warn_bytes is not None and size_bytes >= config.warn_bytes
    if config.limit_bytes is not None and size_bytes >= config.limit_bytes:
        return MemoryDecision(MemoryVerdict.RESTART, is_above)
    if is_above and not is_warned:
        return MemoryDecision(MemoryVerdict.WARN, True)
    return MemoryDecision(MemoryVerdict.FINE, is_above)
