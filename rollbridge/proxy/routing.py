"""Which release and which upstream a request goes to, which worker a client: pure choices over route and loads."""

from __future__ import annotations

from collections.abc import Sequence

from rollbridge.proxy.messages import Route, Target


def active_target(route: Route) -> Target | None:
    """The target for new requests, or None. The one place that a weighted choice among several would go."""
    if route.active is None:
        return None
    return next((target for target in route.targets if target.release_key == route.active), None)


def pick_upstream(loads: Sequence[int | None], turn: int) -> int | None:
    """Index of the upstream with the fewest requests; None when there is none.

    A load of None is an upstream that takes nothing now. ``turn`` (any number that moves on) breaks ties, so that
    equals take turns.
    """
    best: int | None = None
    best_load = 0
    count = len(loads)
    for step in range(count):
        index = (turn + step) % count
        load = loads[index]
        if load is not None and (best is None or load < best_load):
            best, best_load = index, load
    return best


def is_ahead(clients: int, others: Sequence[int]) -> bool:
    """Whether a worker with so many clients should leave the next one to ``others``, the clients of each of them.

    A little ahead is as good as even: of 64 clients, one of two workers has 35 at most.
    """
    if not others:
        return False
    least = min(others)
    return clients > least + 2 + least // 8
