"""What processes have cost so far: CPU time and memory."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """``pss_kib`` counts a page shared by n processes as an nth; ``rss_kib`` counts it in each of them."""

    rss_kib: int
    pss_kib: int


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of all threads of ``pids``, ended ones included.

    What /proc/PID/stat gives as utime + stime, but in nanoseconds instead of ticks of 10 ms: the kernel's CPU-time
    clock of a process, whose number is made of its pid (clock_getcpuclockid(3)).
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def memory(pids: Iterable[int]) -> Memory:
    rss = pss = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                rss += int(line.split()[1])
            elif line.startswith("Pss:"):
                pss += int(line.split()[1])
    return Memory(rss, pss)
