"""Which ports a release gets. Pure: what the kernel says of a port comes in through ``probe``."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from dataclasses import dataclass

from rollbridge.config.model import PortRange


class PortFact(enum.Enum):
    """What the kernel says when asked to bind a port."""

    FREE = "free"
    IN_USE = "in use"  # EADDRINUSE
    NOT_BINDABLE = "not bindable"  # EACCES, EADDRNOTAVAIL and the rest


@dataclass(eq=False)
class PortsExhausted(Exception):
    """No ``wanted`` ports are left in the range of ``process_id``; the counts say where they went."""

    process_id: str
    range: PortRange
    wanted: int
    reserved: int
    in_use: int
    not_bindable: int

    def __str__(self) -> str:
        if self.range.is_fixed and self.reserved:
            return (
                f"port {self.range} of process {self.process_id} is still taken by another release, and there is no "
                f"other: a new release starts beside the old one. Give processes.{self.process_id}.port a range, for "
                f'example "{self.range.first}-{min(self.range.last + 9, 65535)}", or stop that release first'
            )
        noun = "port" if self.wanted == 1 else "ports"
        return (
            f"no {self.wanted} free {noun} for process {self.process_id} in {self.range}: of {len(self.range)}, "
            f"{self.reserved} reserved by other releases, {self.in_use} in use by other programs, "
            f"{self.not_bindable} not bindable. Widen processes.{self.process_id}.port, or wait until an old "
            f"release has drained"
        )


def choose_ports(
    process_id: str,
    port_range: PortRange,
    wanted: int,
    reserved: Collection[int],
    probe: Callable[[int], PortFact],
    start_after: int | None = None,
) -> tuple[int, ...]:
    """Return ``wanted`` free ports of ``port_range``; raise PortsExhausted when there are not so many.

    The search begins behind ``start_after`` and wraps: a port that was just given back is the last
    to be given out again, so that what still speaks to the old release never meets the new one.
    """
    order = range(port_range.first, port_range.last + 1)
    if start_after is not None and start_after in order:
        split = start_after + 1 - port_range.first
        candidates = [*order[split:], *order[:split]]
    else:
        candidates = list(order)
    chosen: list[int] = []
    counts = dict.fromkeys(PortFact, 0)
    reserved_count = 0
    for port in candidates:
        if port in reserved:
            reserved_count += 1
            continue
        fact = probe(port)
        counts[fact] += 1
        if fact is PortFact.FREE:
            chosen.append(port)
            if len(chosen) == wanted:
                return tuple(chosen)
    raise PortsExhausted(
        process_id, port_range, wanted, reserved_count, counts[PortFact.IN_USE], counts[PortFact.NOT_BINDABLE]
    )
