"""Processes that nobody has on record: found by the mark of their start, and by the output file they write to."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass

from rollbridge.process.identity import ProcessIdentity
from rollbridge.process.table import ProcessTable
from rollbridge.process.tree import INSTANCE_VARIABLE, find_leader

_GONE = " (deleted)"


@dataclass(frozen=True, slots=True)
class Marked:
    """One start of which something lives. ``instance_id`` is the name of its output file, without the ending."""

    leader: ProcessIdentity
    token: str
    instance_id: str


def find_marked(table: ProcessTable, known_tokens: Collection[str], output_of: Callable[[int], str]) -> list[Marked]:
    """Return every start whose token is not in ``known_tokens``.

    A mark alone is no proof, since environments are copied, and another application's processes carry marks too:
    ``output_of`` must name, for one process of the start, the output file of ours that it writes to.
    """
    found: dict[str, Marked] = {}
    for row in table.rows.values():
        token = table.mark(row.pid, INSTANCE_VARIABLE)
        if not token or token in known_tokens or token in found:
            continue
        instance_id = output_of(row.pid)
        leader = find_leader(table, token) if instance_id else None
        if leader is not None:
            found[token] = Marked(leader, token, instance_id)
    return list(found.values())


def output_in(pid: int, directory: str) -> str:
    """Return the name, without its ending, of the file in ``directory`` that ``pid`` prints to; empty if there is none.

    A file that was deleted counts: it is still what the process writes to.
    """
    for descriptor in (1, 2):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")  # noqa: PTH115
        except OSError:
            continue
        target = target.removesuffix(_GONE)
        if target.startswith(directory) and target.endswith((".out", ".err")):
            return target[len(directory) : -len(".out")].lstrip("/")
    return ""
