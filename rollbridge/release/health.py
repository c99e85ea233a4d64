"""Asks a proxied process whether it is healthy, quickly at first and never longer than allowed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rollbridge.config.model import HealthConfig

_FIRST_PAUSE_SECONDS: Final = 0.01  # most of a deploy is the app's own start: notice its end at once
_SHORTEST_BOUND_SECONDS: Final = 5.0  # a slow health page is not a dead one ...
_SHARE_OF_TIMEOUT: Final = 3  # ... but one unanswered probe must leave time for others
_LEAST_BOUND_SECONDS: Final = 0.02  # an answer within less says more about the machine's load than about the app
_HEAD_LIMIT_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What one probe found; ``reason`` is a phrase for the operator."""

    is_healthy: bool
    reason: str


class Unhealthy(Exception):
    """The time is up; the message is the last probe's reason."""


def judge_status_line(line: bytes, path: str) -> ProbeAnswer:
    """Judge the first line of the answer: 2xx and 3xx are healthy (RFC 9112 §4)."""
    parts = line.rstrip(b"\r\n").split(b" ", 2)
    if not line.endswith(b"\n") or not parts[0].startswith(b"HTTP/1.") or len(parts) < 2:
        return ProbeAnswer(False, f"GET {path} was not answered in HTTP/1.1: {line[:60]!r}")
    status = parts[1]
    if len(status) != 3 or not status.isdigit():
        return ProbeAnswer(False, f"GET {path} was answered without a status: {line[:60]!r}")
    return ProbeAnswer(200 <= int(status) <= 399, f"GET {path} answered {int(status)}")


def pauses(interval_seconds: float) -> Callable[[int], float]:
    """Return how long to wait after the n-th failed probe: doubling from 10 ms up to ``interval_seconds``."""
    return lambda attempt: min(interval_seconds, _FIRST_PAUSE_SECONDS * 2 ** min(attempt, 16))


def probe_bound(timeout_seconds: float, remaining_seconds: float) -> float:
    """Return the longest that one probe may take."""
    return min(remaining_seconds, max(_SHORTEST_BOUND_SECONDS, timeout_seconds / _SHARE_OF_TIMEOUT))


async def probe(host: str, port: int, path: str, bound_seconds: float) -> ProbeAnswer:
    """Send one ``GET path`` to ``host:port`` on a connection of its own and judge the answer."""
    try:
        async with asyncio.timeout(bound_seconds):
            return await _probe(host, port, path)
    except TimeoutError:
        return ProbeAnswer(False, f"GET {path} on {host}:{port} was not answered within {bound_seconds:.3g} s")


async def _probe(host: str, port: int, path: str) -> ProbeAnswer:
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=_HEAD_LIMIT_BYTES)
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else str(error)
        return ProbeAnswer(False, f"connecting to {host}:{port}: {reason}")
    try:
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        request = (
            f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: rollbridge-health\r\nConnection: close\r\n\r\n"
        )
        writer.write(request.encode("ascii"))
        await writer.drain()
        while True:
            line = await reader.readline()
            if not line.startswith((b"HTTP/1.1 1", b"HTTP/1.0 1")):
                break
            # An interim answer (RFC 9110 §15.2): skip its fields, the final one follows.
            while (await reader.readline()).strip():
                pass
        if not line:
            return ProbeAnswer(False, f"GET {path}: the connection was closed without an answer")
        return judge_status_line(line, path)
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        return ProbeAnswer(False, f"GET {path}: {error}")
    finally:
        # An abort, not a close: nothing of the answer's body is wanted, and a peer that does not
        # read must not keep us waiting.
        writer.transport.abort()


async def wait_until_healthy(
    host: str,
    port: int,
    health: HealthConfig,
    is_ours: Callable[[], str],
    on_answer: Callable[[ProbeAnswer], None],
) -> ProbeAnswer:
    """Probe until an answer is healthy and comes from our own process; raise Unhealthy when time is up.

    ``is_ours`` says in a phrase why the port's holder is not of this release, empty when it is.
    ``on_answer`` hears of every probe.
    """
    loop = asyncio.get_running_loop()
    await asyncio.sleep(health.start_delay_seconds)
    deadline = loop.time() + health.timeout_seconds
    pause = pauses(health.interval_seconds)
    attempt = 0
    remaining = health.timeout_seconds
    while True:
        answer = await probe(host, port, health.path, probe_bound(health.timeout_seconds, remaining))
        if answer.is_healthy and (complaint := is_ours()):
            answer = ProbeAnswer(False, complaint)
        on_answer(answer)
        if answer.is_healthy:
            return answer
        await asyncio.sleep(min(pause(attempt), max(0.0, deadline - loop.time())))
        attempt += 1
        remaining = deadline - loop.time()
        if remaining < _LEAST_BOUND_SECONDS:
            # Not one more probe that could only time out: what the last real one found is the reason.
            raise Unhealthy(answer.reason)
