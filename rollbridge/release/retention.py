"""Which retired releases are forgotten. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rollbridge.config.model import RetentionConfig


@dataclass(frozen=True, slots=True)
class Retired:
    """A stopped or failed release, and when it ended (seconds, any clock that ``now`` shares)."""

    key: str
    ended: float


def releases_to_prune(retired: Sequence[Retired], policy: RetentionConfig, now: float) -> tuple[str, ...]:
    """Return the keys to forget, oldest first: those beyond ``keep``, and those older than ``max_age``."""
    newest_first = sorted(retired, key=lambda release: release.ended, reverse=True)
    beyond = newest_first[policy.keep :]
    aged = (
        [release for release in newest_first[: policy.keep] if now - release.ended > policy.max_age_seconds]
        if policy.max_age_seconds > 0
        else []
    )
    return tuple(release.key for release in sorted([*beyond, *aged], key=lambda release: release.ended))
