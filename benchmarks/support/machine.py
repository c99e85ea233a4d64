"""The machine: which cores a benchmark may use for what, and what to write beside its figures."""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """``proxy`` is for the processes that are measured, ``load`` for everything else."""

    proxy: frozenset[int]
    load: frozenset[int]

    def __str__(self) -> str:
        if self.proxy & self.load:
            return f"proxy, load and upstream share the cores {_numbers(self.proxy | self.load)}"
        return f"proxy on core {_numbers(self.proxy)}, load and upstream on core {_numbers(self.load)}"


def share_cores(workers: int, available: Collection[int]) -> Cores:
    """One core per proxy worker, the rest for load and upstream; where there are too few, all share all."""
    cores = sorted(available)
    if len(cores) <= workers:
        return Cores(frozenset(cores), frozenset(cores))
    return Cores(frozenset(cores[:workers]), frozenset(cores[workers:]))


def describe_machine(python: str, available: Collection[int]) -> list[str]:
    """Lines for people: processor, kernel, the Python that runs rollbridge."""
    processor = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return [
        f"{len(available)} cores of {processor.group(1) if processor else platform.machine()}, "
        f"{int(memory.group(1)) // 1024 if memory else 0} MiB, Linux {platform.release()}",
        describe_python(python),
    ]


def describe_python(python: str) -> str:
    """Version and speed: how it was compiled makes a third of its speed, and it does not tell."""
    code = (
        "import platform, time; begun = time.process_time(); any(False for _ in range(10**7)); "
        "nanoseconds = (time.process_time() - begun) * 100; "
        "print(f'{platform.python_version()}, {nanoseconds:.1f} ns a turn of an empty generator')"
    )
    return "Python " + version_of([python, "-I", "-c", code])


def version_of(argv: list[str], pattern: str = r".+") -> str:
    """The first match of ``pattern`` in what the command prints, on either output."""
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    found = re.search(pattern, result.stdout + result.stderr)
    return found.group(0) if found else "version unknown"


def _numbers(cores: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(cores)))
