"""wrk, and what a proxy costs while wrk asks it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.support.children import running
from benchmarks.support.meter import Memory, cpu_seconds, memory
from benchmarks.support.quota import limited

SCRIPT = Path(__file__).with_name("wrk.lua")
FRESH_SCRIPT = Path(__file__).with_name("wrk_fresh.lua")
# Late enough that every connection is at work, early enough that none is being closed.
MEMORY_AT = 0.7
# The proxy still closes what wrk has left; that belongs to what the requests cost.
SETTLE_SECONDS = 0.03


class LoadFailed(Exception):
    """wrk gave no figures; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load."""

    title: str
    path: str
    connections: int = 64
    workers: int = 1
    is_closing: bool = False  # a new connection for every request
    post_bytes: int = 0
    is_fresh: bool = False  # no two requests have the same fields
    core_share: float | None = None  # that each process of the proxy may have at most


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of wrk against one proxy."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_seconds: float  # of the proxy's processes
    busiest: float  # the share of that which the busiest of them has
    memory: Memory  # of the proxy's processes, under load

    @property
    def cpu_microseconds(self) -> float:
        return self.cpu_seconds * 1e6 / self.requests

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @property
    def busy(self) -> float:
        """How much of one core the proxy took: well below 1 it was not the proxy that limited the rate."""
        return self.cpu_seconds / self.seconds


def measure(
    cell: Cell, port: int, pids: Sequence[int], seconds: int, cores: Collection[int], directory: Path
) -> Sample:
    script = FRESH_SCRIPT if cell.is_fresh else SCRIPT
    argv = ["wrk", "-t1", f"-c{cell.connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script)]
    argv += [f"http://127.0.0.1:{port}{cell.path}", "--", "close" if cell.is_closing else "keep", str(cell.post_bytes)]
    before = {pid: cpu_seconds([pid]) for pid in pids}
    limit = contextlib.nullcontext() if cell.core_share is None else limited(pids, cell.core_share)
    with limit, running(argv, cores=cores, log=directory / "wrk.log", stdout=subprocess.PIPE) as wrk:
        time.sleep(seconds * MEMORY_AT)
        used = memory(pids)
        output = wrk.communicate(timeout=seconds + 30)[0].decode(errors="replace")
    time.sleep(SETTLE_SECONDS)
    spent = [cpu_seconds([pid]) - before[pid] for pid in pids]
    try:
        told = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise LoadFailed(f"{' '.join(argv)}: {output.strip() or (directory / 'wrk.log').read_text()}") from None
    if not told["requests"]:
        raise LoadFailed(f"{' '.join(argv)}: not one request was answered, {told['errors']} errors")
    return Sample(**told, cpu_seconds=sum(spent), busiest=max(spent) / sum(spent), memory=used)
