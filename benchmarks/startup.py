#!/usr/bin/env python3
"""What a command costs above bare Python: the medians of both, run by turns.

    python3 benchmarks/startup.py [--runs N] [--limit MILLISECONDS] [--pyz PATH] [ARGUMENT ...]

Without arguments it measures ``rollbridge.pyz --version`` against ``python3 -I -c pass``, the cost every command pays;
exit 1 when that is above the limit. By turns, so that a machine that is busy for a while slows both.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PYZ: Final = Path(__file__).resolve().parent.parent / "dist" / "rollbridge.pyz"
LIMIT_MILLISECONDS: Final = 60.0
RUNS: Final = 40


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what a command costs above bare Python.")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--limit", type=float, default=LIMIT_MILLISECONDS)
    parser.add_argument("--pyz", type=Path, default=PYZ)
    parser.add_argument("arguments", nargs="*", default=["--version"])
    options = parser.parse_args()
    bare, command = medians(
        ([sys.executable, "-I", "-c", "pass"], [sys.executable, "-I", str(options.pyz), *options.arguments]),
        options.runs,
    )
    print(
        f"python {bare:.1f} ms, rollbridge {' '.join(options.arguments)} {command:.1f} ms: "
        f"{command - bare:.1f} ms above it, of {options.limit:g} allowed"
    )
    return 0 if command - bare <= options.limit else 1


def medians(commands: Sequence[Sequence[str]], runs: int) -> list[float]:
    """Return the median of each command's time in milliseconds; the first run of each is not counted."""
    times: list[list[float]] = [[] for _ in commands]
    for _ in range(runs + 1):
        for command, taken in zip(commands, times, strict=True):
            begun = time.perf_counter()
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            taken.append((time.perf_counter() - begun) * 1000)
    return [statistics.median(taken[1:]) for taken in times]


if __name__ == "__main__":
    sys.exit(main())
