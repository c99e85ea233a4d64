#!/usr/bin/env python3
"""What tunnels cost in rollbridge's proxy, in nginx and in HAProxy: memory of idle ones, CPU time of busy ones.

    python3 benchmarks/tunnels.py [--idle 10000] [--busy 1000] [--peers NAMES] [--seconds N] [--rounds N] [--json PATH]

A proxy holds two descriptors per tunnel: where ``ulimit -Hn`` is too low there are fewer idle ones, and it is said.
Exit 0: measured; 1: something did not start, or a tunnel failed; 2: asked wrongly.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from benchmarks.support.children import NotStarted, end_on_signals, running  # noqa: E402  (found through the line above)
from benchmarks.support.machine import Cores, describe_machine, share_cores  # noqa: E402
from benchmarks.support.meter import cpu_seconds, memory  # noqa: E402
from benchmarks.support.peers import PEERS, Missing, Peer, Setting, build_pyz, find_peer  # noqa: E402
from benchmarks.support.table import table, with_ratio  # noqa: E402
from benchmarks.support.tunnel_clients import Conversation, TunnelClients, TunnelFailed  # noqa: E402

UPSTREAM = Path(__file__).parent / "support" / "tunnel_upstream.py"
BASE = "nginx"
PAYLOAD_BYTES = 64
# What a proxy has open besides its tunnels, and what HAProxy keeps back for that.
OTHER_DESCRIPTORS = 400
SETTLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One proxy with all its tunnels."""

    open_microseconds: float  # CPU of the proxy per tunnel opened
    idle_kib: float  # PSS per idle tunnel
    idle_cpu: float  # CPU seconds a second with nothing but idle tunnels
    busy_kib: float  # PSS per tunnel, after some of them were busy
    message_microseconds: float  # CPU of the proxy per message
    conversation: Conversation


def main() -> int:
    options = parse_options()
    end_on_signals()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle = min(options.idle, (hard - OTHER_DESCRIPTORS) // 2 - options.busy)
    if idle < 1:
        print(f"benchmarks/tunnels.py: {hard} descriptors are too few; raise ulimit -Hn or choose fewer tunnels")
        return 2
    cores = share_cores(1, os.sched_getaffinity(0))
    described = [*describe_machine(options.python, cores.proxy | cores.load), str(cores)]
    samples: dict[str, list[Sample]] = {}
    try:
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            pyz = build_pyz(CHECKOUT, directory, options.python) if "rollbridge" in options.peers else None
            os.sched_setaffinity(0, cores.load)
            for number in range(options.rounds):
                for peer in [find_peer(name, pyz) for name in options.peers]:
                    own = directory / f"{number}-{len(samples)}-{peer.name.partition('@')[0]}"
                    own.mkdir()
                    try:
                        sample = measure(peer, own, cores, options, idle)
                    except Missing as error:
                        if number == 0:
                            described.append(f"{peer.name} is skipped: it is not installed ({error})")
                        continue
                    samples.setdefault(peer.name, []).append(sample)
                    print(
                        f"round {number + 1} of {options.rounds}, {peer.name}: "
                        f"{sample.idle_kib:.2f} KiB per idle tunnel, {sample.message_microseconds:.1f} µs per message",
                        file=sys.stderr,
                    )
    except (NotStarted, TunnelFailed, OSError) as error:
        print(f"benchmarks/tunnels.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if idle < options.idle:
        described.append(f"{idle} idle tunnels instead of {options.idle}: ulimit -Hn is {hard}, a tunnel takes two")
    print(report(samples, described, idle, options))
    if options.json is not None:
        shape = {name: [asdict(sample) for sample in taken] for name, taken in samples.items()}
        options.json.write_text(json.dumps({"machine": described, "idle": idle, "peers": shape}, indent=1) + "\n")
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what tunnels cost in rollbridge's proxy and in others.")
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--busy", type=int, default=1000)
    parser.add_argument(
        "--peers",
        type=lambda text: text.split(","),
        default=["nginx", "haproxy", "rollbridge"],
        help="comma-separated; also caddy, and rollbridge@PATH for a .pyz or a checkout (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="for which the busy ones talk (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every sample there")
    parser.add_argument("--python", default=sys.executable, help="runs rollbridge (default: the one that runs this)")
    options = parser.parse_args()
    for name in options.peers:
        if (name not in PEERS and name.partition("@")[0] != "rollbridge") or name == "http-proxy":
            parser.error(f"no peer is called {name}: choose from nginx, haproxy, caddy, rollbridge, rollbridge@PATH")
    return options


@contextlib.contextmanager
def tunnel_upstream(directory: Path, cores: Cores) -> Iterator[int]:
    argv = [sys.executable, "-I", str(UPSTREAM), str(PAYLOAD_BYTES)]
    with running(argv, cores=cores.load, log=directory / "upstream.log", stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise NotStarted(f"the upstream ended: {(directory / 'upstream.log').read_text()}")
        yield int(line)


def measure(peer: Peer, directory: Path, cores: Cores, options: argparse.Namespace, idle: int) -> Sample:
    with tunnel_upstream(directory, cores) as upstream_port:
        setting = Setting(directory, upstream_port, 1, cores, options.python, Path())
        with (
            peer.start(setting) as proxy,
            contextlib.closing(TunnelClients(proxy.port, PAYLOAD_BYTES)) as clients,
        ):
            memory_before = memory(proxy.pids).pss_kib
            cpu_before = cpu_seconds(proxy.pids)
            clients.open(idle)
            cpu_open = cpu_seconds(proxy.pids)
            time.sleep(SETTLE_SECONDS)
            cpu_idle = cpu_seconds(proxy.pids)
            memory_idle = memory(proxy.pids).pss_kib
            clients.open(options.busy)
            cpu_ready = cpu_seconds(proxy.pids)
            conversation = clients.talk(options.busy, options.seconds)
            cpu_after = cpu_seconds(proxy.pids)
            memory_after = memory(proxy.pids).pss_kib
    return Sample(
        open_microseconds=(cpu_open - cpu_before) * 1e6 / idle,
        idle_kib=(memory_idle - memory_before) / idle,
        idle_cpu=(cpu_idle - cpu_open) / SETTLE_SECONDS,
        busy_kib=(memory_after - memory_before) / (idle + options.busy),
        message_microseconds=(cpu_after - cpu_ready) * 1e6 / conversation.messages,
        conversation=conversation,
    )


def report(
    samples: Mapping[str, Sequence[Sample]], described: Sequence[str], idle: int, options: argparse.Namespace
) -> str:
    figures: list[tuple[str, Callable[[Sample], float], str]] = [
        ("KiB/idle tunnel", lambda sample: sample.idle_kib, ".2f"),
        ("KiB/tunnel after talk", lambda sample: sample.busy_kib, ".2f"),
        ("CPU µs/tunnel opened", lambda sample: sample.open_microseconds, ".0f"),
        ("CPU µs/message", lambda sample: sample.message_microseconds, ".1f"),
        ("messages/s", lambda sample: sample.conversation.messages / sample.conversation.seconds, ".0f"),
        ("p50 ms", lambda sample: sample.conversation.p50_ms, ".1f"),
        ("p99 ms", lambda sample: sample.conversation.p99_ms, ".1f"),
    ]
    base = samples.get(BASE)
    rows = []
    for name, taken in samples.items():
        cells = []
        for _title, figure, form in figures:
            ratio = None
            if base is not None:
                pairs = zip(taken, base, strict=True)
                ratio = statistics.median(figure(one) / figure(other) for one, other in pairs if figure(other))
            cells.append(with_ratio(statistics.median(map(figure, taken)), ratio, form))
        idle_cpu = statistics.median(sample.idle_cpu for sample in taken)
        rows.append([name, f"{idle_cpu:.2%}", *cells])
    return "\n".join(
        [
            time.strftime("Measured on %Y-%m-%d."),
            "",
            *(f"- {line}" for line in described),
            f"- {idle} idle tunnels, then {options.busy} more that send {PAYLOAD_BYTES} bytes and wait for as many",
            f"- medians of {options.rounds} rounds of {options.seconds:g} s, "
            f"in brackets the median of the rounds' ratios to {BASE}",
            "",
            table(("proxy", "CPU when idle", *(title for title, _figure, _form in figures)), rows),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
