"""What happened to every request of the demo, and which failures are the product's.

One step of the demo kills the web process with SIGKILL. What that process was answering at that instant is lost by
nature: no proxy can know what it had already done. Those are counted apart, and the rule is strict
(``is_cut_by_kill``); every other failure is a failure of the demo.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

# A killed process's connections are reset by the kernel before it is a zombie; this much later the news
# has gone through a busy proxy and a busy client. A later failure has another reason.
AFTER_DEATH_SECONDS: Final = 1.0


class Kind(enum.Enum):
    """Kinds of traffic, as the table names them."""

    KEEP_ALIVE = "GET, kept alive"
    NEW_CONNECTION = "GET, new connection"
    UPLOAD = "upload"
    DOWNLOAD = "download"
    SLOW = "slow answer"
    WEBSOCKET = "WebSocket message"


@dataclass(frozen=True, slots=True)
class Kill:
    """``killed_at``: just before the signal; ``dead_at``: the kernel had closed everything the process held."""

    pid: int
    killed_at: float
    dead_at: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Times are monotonic seconds. A failing WebSocket counts from its handshake.

    ``sent_at`` None: not even sent. ``is_cut``: it ended by a reset, a truncation or a 502.
    ``server_pid`` None: ended before we learned who answers.
    """

    kind: Kind
    sent_at: float | None
    ended_at: float
    reason: str
    is_cut: bool
    server_pid: int | None = None


def is_cut_by_kill(failure: Failure, kill: Kill | None) -> bool:
    """Whether ``failure`` was sent before the kill, to the killed process as far as known, and cut right by it."""
    return (
        kill is not None
        and failure.is_cut
        and failure.sent_at is not None
        and failure.sent_at <= kill.killed_at <= failure.ended_at <= kill.dead_at + AFTER_DEATH_SECONDS
        and failure.server_pid in (None, kill.pid)
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest-rank percentile of ``values``, ``share`` from 0 to 1; None when there are none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(slots=True)
class KindRecord:
    """The successes of one kind; ``gap_seconds`` is the longest time without one."""

    last_success_at: float
    gap_seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def advance(self, now: float) -> None:
        self.gap_seconds = max(self.gap_seconds, now - self.last_success_at)
        self.last_success_at = max(self.last_success_at, now)


@dataclass(frozen=True, slots=True)
class KindSummary:
    """One line of the table. ``requests`` counts all: answered, failed and cut."""

    label: str
    requests: int
    failures: int
    cut_by_kill: int
    p50_seconds: float | None
    p99_seconds: float | None
    longest_gap_seconds: float


@dataclass(frozen=True, slots=True)
class WebSocketSummary:
    """``outlived_switch``: stayed open on their release while new requests already went to another."""

    opened: int
    outlived_switch: int
    cut: int
    cut_by_kill: int


class Ledger:
    """Collects; judges only when asked, because what a failure is depends on the kill that is known by then."""

    def __init__(self, now: float) -> None:
        self._kinds = {kind: KindRecord(now) for kind in Kind}
        self._all = KindRecord(now)
        self._failures: list[Failure] = []
        self._is_finished = False
        self.releases: Counter[str] = Counter()
        self.kill: Kill | None = None
        self.websockets_opened = 0
        self.websockets_outlived_switch = 0
        self._websockets_cut: list[Failure] = []

    def begin(self, now: float) -> None:
        """The first request is about to be sent: no silence before ``now`` counts."""
        for record in (*self._kinds.values(), self._all):
            record.last_success_at = now

    def succeeded(self, kind: Kind, started_at: float, ended_at: float, release: str) -> None:
        for record in (self._kinds[kind], self._all):
            if not self._is_finished:
                record.advance(ended_at)
            record.latencies.append(ended_at - started_at)
        self.releases[release] += 1

    def failed(self, failure: Failure, *, is_websocket_cut: bool = False) -> None:
        """``is_websocket_cut``: an open WebSocket ended in another way than by our own close."""
        self._failures.append(failure)
        if is_websocket_cut:
            self._websockets_cut.append(failure)

    def finish(self, now: float) -> None:
        """No request is begun after ``now``: the silence until now counts as a gap, the silence to come does not."""
        for record in (*self._kinds.values(), self._all):
            record.advance(now)
        self._is_finished = True

    @property
    def request_count(self) -> int:
        return len(self._all.latencies) + len(self._failures)

    def failures(self) -> list[Failure]:
        """Those that nothing excuses."""
        return [failure for failure in self._failures if not is_cut_by_kill(failure, self.kill)]

    def cut_by_kill(self) -> list[Failure]:
        return [failure for failure in self._failures if is_cut_by_kill(failure, self.kill)]

    def summaries(self) -> list[KindSummary]:
        """One line a kind, and the total last."""
        lines = [self._summary(kind.value, record, {kind}) for kind, record in self._kinds.items()]
        return [*lines, self._summary("total", self._all, set(Kind))]

    def _summary(self, label: str, record: KindRecord, kinds: set[Kind]) -> KindSummary:
        failures = [failure for failure in self.failures() if failure.kind in kinds]
        cut = [failure for failure in self.cut_by_kill() if failure.kind in kinds]
        return KindSummary(
            label=label,
            requests=len(record.latencies) + len(failures) + len(cut),
            failures=len(failures),
            cut_by_kill=len(cut),
            p50_seconds=percentile(record.latencies, 0.50),
            p99_seconds=percentile(record.latencies, 0.99),
            longest_gap_seconds=record.gap_seconds,
        )

    def websockets(self) -> WebSocketSummary:
        by_kill = sum(1 for failure in self._websockets_cut if is_cut_by_kill(failure, self.kill))
        return WebSocketSummary(
            opened=self.websockets_opened,
            outlived_switch=self.websockets_outlived_switch,
            cut=len(self._websockets_cut) - by_kill,
            cut_by_kill=by_kill,
        )
