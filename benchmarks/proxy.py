#!/usr/bin/env python3
"""What a request costs in rollbridge's proxy, and in nginx, HAProxy, Caddy and http-proxy: CPU time, latency, memory.

    python3 benchmarks/proxy.py [--quick] [--peers NAMES] [--cells NAMES] [--seconds N] [--rounds N] [--json PATH]

Everything runs on this machine over loopback: an nginx that answers from memory, the proxies, and wrk. README.md here
says how to read the figures. Exit 0: measured; 1: something did not start or answer; 2: asked wrongly.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from benchmarks.support.children import NotStarted, end_on_signals  # noqa: E402  (found through the line above)
from benchmarks.support.load import Cell, LoadFailed, Sample, measure  # noqa: E402
from benchmarks.support.machine import describe_machine, share_cores, version_of  # noqa: E402
from benchmarks.support.peers import PEERS, ROLLBRIDGES, Missing, Peer, Proxy, Setting, build_pyz, find_peer  # noqa: E402
from benchmarks.support.quota import NoQuota  # noqa: E402
from benchmarks.support.table import table, with_ratio  # noqa: E402
from benchmarks.support.upstream import nginx_upstream  # noqa: E402

# So little that load and upstream have more than enough left, also on 2 cores: then the rate is what the workers make.
CORE_SHARE = 0.1
CELLS = {
    "5b": Cell("5 B", "/5"),
    "5b-fresh": Cell("5 B, no two heads alike", "/5", is_fresh=True),
    "1k": Cell("1 KiB", "/1k"),
    "64k": Cell("64 KiB", "/64k"),
    "1m": Cell("1 MiB", "/1m"),
    "post": Cell("POST 64 KiB", "/post", post_bytes=64 * 1024),
    "new": Cell("5 B, new connections", "/5", is_closing=True),
    "new-64k": Cell("64 KiB, new connections", "/64k", is_closing=True),
    "c1": Cell("5 B, 1 connection", "/5", connections=1),
    "c1000": Cell("5 B, 1000 connections", "/5", connections=1000),
    "w2": Cell("5 B, 2 workers", "/5", workers=2),
    "w2-64k": Cell("64 KiB, 2 workers", "/64k", workers=2),
    "w2-new": Cell("5 B, new connections, 2 workers", "/5", is_closing=True, workers=2),
    "share-w1": Cell(f"5 B, 1 worker with {CORE_SHARE:.0%} of a core", "/5", core_share=CORE_SHARE),
    "share-w2": Cell(f"5 B, 2 workers with {CORE_SHARE:.0%} of a core each", "/5", core_share=CORE_SHARE, workers=2),
}
QUICK_CELLS = ("5b", "64k", "1m")
# Of those that are one process with threads, a share for each process says nothing.
MULTI_PROCESS = ("nginx", *ROLLBRIDGES)
BASE = "nginx"  # what the ratios are to
Samples = Mapping[str, Mapping[str, Sequence[Sample]]]  # by cell, by peer: one a round


def main() -> int:
    options = parse_options()
    end_on_signals()
    raise_descriptor_limit()
    try:
        with contextlib.ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory_directory())))
            pyz = build_pyz(CHECKOUT, directory, options.python) if {*ROLLBRIDGES} & {*options.peers} else None
            peers = [find_peer(name, pyz) for name in options.peers]
            found, described = find_installed(peers, options, directory)
            samples = run(found, options, directory)
    except (Missing, NotStarted, LoadFailed, NoQuota) as error:
        print(f"benchmarks/proxy.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    text = report(samples, described, options)
    print(text)
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(samples, described), indent=1) + "\n")
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what a request costs in rollbridge's proxy and in others.")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK_CELLS)}; under a minute")
    parser.add_argument(
        "--peers",
        type=lambda text: text.split(","),
        default=[*PEERS, *ROLLBRIDGES],
        help="comma-separated; rollbridge-log writes an access log; rollbridge@PATH and rollbridge-log@PATH are a .pyz "
        "or a checkout to compare with (default: %(default)s)",
    )
    parser.add_argument(
        "--cells", type=lambda text: text.split(","), default=None, help=f"comma-separated: {', '.join(CELLS)}"
    )
    parser.add_argument("--seconds", type=int, default=None, help="of one run of wrk (default: 2, 1 with --quick)")
    parser.add_argument(
        "--rounds", type=int, default=None, help="runs of each peer in each cell (default: 5, 2 with --quick)"
    )
    parser.add_argument("--json", type=Path, help="write every sample there")
    parser.add_argument("--python", default=sys.executable, help="runs rollbridge (default: the one that runs this)")
    parser.add_argument(
        "--node-modules",
        type=Path,
        default=CHECKOUT / "build" / "node_modules",
        help="where http-proxy is installed (default: build/node_modules in the checkout)",
    )
    options = parser.parse_args()
    options.available = os.sched_getaffinity(0)  # before any of them is given away
    options.cells = options.cells or list(QUICK_CELLS if options.quick else CELLS)
    options.seconds = options.seconds or (1 if options.quick else 2)
    options.rounds = options.rounds or (2 if options.quick else 5)
    for name in options.peers:
        if name not in PEERS and name.partition("@")[0] not in ROLLBRIDGES:
            known = ", ".join([*PEERS, *ROLLBRIDGES])
            parser.error(f"no peer is called {name}: choose from {known}, rollbridge@PATH, rollbridge-log@PATH")
    for name in options.cells:
        if name not in CELLS:
            parser.error(f"no cell is called {name}: choose from {', '.join(CELLS)}")
    return options


def memory_directory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def raise_descriptor_limit() -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def find_installed(peers: Sequence[Peer], options: argparse.Namespace, directory: Path) -> tuple[list[Peer], list[str]]:
    """Return the peers that are installed, and lines that describe them, those missing and the machine."""
    setting = Setting(directory, 0, 1, share_cores(1, options.available), options.python, options.node_modules)
    found, versions, skipped = [], [], []
    for peer in peers:
        try:
            version = peer.version(setting)
            if version not in versions:
                versions.append(version)
            found.append(peer)
        except Missing as error:
            skipped.append(f"{peer.name} is skipped: it is not installed ({error})")
    versions.append(version_of(["wrk", "-v"], r"wrk \S+").replace("debian/", ""))
    return found, [*describe_machine(options.python, options.available), ", ".join(versions), *skipped]


def run(peers: Sequence[Peer], options: argparse.Namespace, directory: Path) -> Samples:
    """Measure every cell with every peer, by turns: what slows the machine for a while slows all of them."""
    samples: dict[str, dict[str, list[Sample]]] = {cell: {peer.name: [] for peer in peers} for cell in options.cells}
    for workers in sorted({CELLS[name].workers for name in options.cells}):
        cores = share_cores(workers, options.available)
        os.sched_setaffinity(0, cores.load)
        names = [name for name in options.cells if CELLS[name].workers == workers]
        with contextlib.ExitStack() as stack:
            upstream_port = stack.enter_context(
                nginx_upstream(subdirectory(directory, f"upstream-{workers}"), cores.load)
            )
            proxies: dict[str, Proxy] = {}
            for number, peer in enumerate(peers):
                own = subdirectory(directory, f"{number}-{workers}")
                setting = Setting(own, upstream_port, workers, cores, options.python, options.node_modules)
                proxies[peer.name] = stack.enter_context(peer.start(setting))
            for number in range(options.rounds):
                for name in names:
                    # Each round begins with another one.
                    turn = number % len(peers)
                    for peer in [*peers[turn:], *peers[:turn]]:
                        proxy = proxies[peer.name]
                        sample = measure(CELLS[name], proxy.port, proxy.pids, options.seconds, cores.load, directory)
                        samples[name][peer.name].append(sample)
                        tell_progress(
                            f"round {number + 1} of {options.rounds}, {CELLS[name].title}, {peer.name}", sample
                        )
    return samples


def subdirectory(directory: Path, name: str) -> Path:
    path = directory / name
    path.mkdir()
    return path


def tell_progress(what: str, sample: Sample) -> None:
    print(f"{what}: {sample.cpu_microseconds:.1f} µs, {sample.rate:.0f}/s", file=sys.stderr, flush=True)


def median(samples: Sequence[Sample], figure: Callable[[Sample], float]) -> float:
    return statistics.median(figure(sample) for sample in samples)


def ratio(samples: Sequence[Sample], base: Sequence[Sample] | None, figure: Callable[[Sample], float]) -> float | None:
    """The median of the ratios of each round."""
    if base is None:
        return None
    pairs = zip(samples, base, strict=True)
    return statistics.median(figure(one) / figure(other) for one, other in pairs if figure(other))


def report(samples: Samples, described: Sequence[str], options: argparse.Namespace) -> str:
    """The whole result as Markdown."""
    layouts = {
        str(share_cores(workers, options.available)): workers
        for workers in sorted({CELLS[name].workers for name in samples})
    }
    lines = [
        time.strftime("Measured on %Y-%m-%d."),
        "",
        *(f"- {line}" for line in described),
        *(f"- {workers} worker{'s' if workers > 1 else ''}: {layout}" for layout, workers in layouts.items()),
        f"- medians of {options.rounds} rounds of {options.seconds} s, "
        f"in brackets the median of the rounds' ratios to {BASE}",
        "- 64 keep-alive connections and 1 worker unless the load says otherwise",
        *(f"- {line}" for line in scaling(samples)),
        "",
        table(
            (
                "load",
                "proxy",
                "CPU µs/request",
                "requests/s",
                "p50 ms",
                "p99 ms",
                "PSS MiB",
                "RSS MiB",
                "busy",
                "busiest",
                "errors",
            ),
            [row for name in samples for row in rows(CELLS[name], samples[name])],
        ),
    ]
    return "\n".join(lines)


def scaling(samples: Samples) -> list[str]:
    """What a second worker adds, where both were measured with the same share of a core for each."""
    one, two = samples.get("share-w1", {}), samples.get("share-w2", {})
    rates = {
        name: ratio(two[name], one[name], lambda sample: sample.rate)
        for name in one
        if name in two and name in MULTI_PROCESS
    }
    return [f"2 workers of {name} serve {rate:.2f} times what 1 serves" for name, rate in rates.items() if rate]


def rows(cell: Cell, by_peer: Mapping[str, Sequence[Sample]]) -> list[list[str]]:
    base = by_peer.get(BASE)
    figures: list[tuple[Callable[[Sample], float], str]] = [
        (lambda sample: sample.cpu_microseconds, ".1f"),
        (lambda sample: sample.rate, ".0f"),
        (lambda sample: sample.p50_ms, ".2f"),
        (lambda sample: sample.p99_ms, ".2f"),
        (lambda sample: sample.memory.pss_kib / 1024, ".1f"),
    ]
    lines: list[list[str]] = []
    for name, samples in by_peer.items():
        cells = [with_ratio(median(samples, figure), ratio(samples, base, figure), form) for figure, form in figures]
        cells.append(f"{median(samples, lambda sample: sample.memory.rss_kib / 1024):.1f}")
        cells.append(f"{median(samples, lambda sample: sample.busy):.0%}")
        has_many = cell.workers > 1 and median(samples, lambda sample: sample.busiest) < 1
        cells.append(f"{median(samples, lambda sample: sample.busiest):.0%}" if has_many else "")
        cells.append(str(sum(sample.errors for sample in samples)))
        lines.append([cell.title if not lines else "", name, *cells])
    return lines


def as_json(samples: Samples, described: Sequence[str]) -> dict[str, object]:
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": list(described),
        "cells": {
            cell: {peer: [asdict(sample) for sample in taken] for peer, taken in by_peer.items()}
            for cell, by_peer in samples.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
