"""Free ports for daemons, apps and strangers."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from pathlib import Path

# Below the ephemeral range an outgoing connection can never sit on a port between our look and the daemon's bind.
LOWEST = 10_000
FALLBACK_EPHEMERAL = 32_768


def ephemeral_start() -> int:
    """First port the kernel hands out by itself."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return FALLBACK_EPHEMERAL


def lane(lowest: int, highest: int) -> tuple[int, int]:
    """Part of the ports that this one of several test runners side by side may choose from; all of them when alone."""
    name, count = os.environ.get("PYTEST_XDIST_WORKER", "gw0"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    width = (highest - lowest) // count
    first = lowest + int(name.removeprefix("gw")) * width
    return first, first + width


def is_bindable(port: int, host: str = "0.0.0.0") -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_block(count: int) -> int:
    """First port of ``count`` contiguous ones that are free on every address."""
    lowest, highest = lane(LOWEST, ephemeral_start())
    if highest - lowest < 20 * count:
        lowest, highest = LOWEST, 65_000
    chooser = random.Random(f"{os.getpid()}-{os.urandom(8).hex()}")
    for _ in range(500):
        first = chooser.randrange(lowest, highest - count)
        if all(is_bindable(first + offset) for offset in range(count)):
            return first
    raise RuntimeError(f"found no {count} free contiguous ports")


def listening_stranger(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A listening socket of this process on ``port``."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(listener.close)
        listener.bind((host, port))
        listener.listen(64)
        on_failure.pop_all()
    return listener
