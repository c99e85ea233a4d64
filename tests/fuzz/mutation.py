"""A plain mutating fuzzer, for where atheris is not to be had: it needs no coverage, and finds less."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Final

MAX_BYTES: Final = 1024

# What HTTP is made of, and what it is broken with.
TOKENS: Final = (
    *(b"\r\n", b"\r\n\r\n", b"\r", b"\n", b"\x00", b"\x0b", b"\x7f", b"\xff", b" ", b"\t", b":", b",", b";", b"="),
    *(b'"', b"\\", b"_", b"/", b"*", b"?", b"#", b"@", b"[", b"]", b"%", b"-", b"+", b"0x", b"0", b"1", b"5", b"f"),
    *(b"GET ", b"POST ", b"HEAD ", b"OPTIONS * ", b"CONNECT ", b"http://a", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"),
    *(b"Host: a\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"chunked", b"Connection: "),
    *(b"close", b"keep-alive", b"Upgrade", b"TE: trailers\r\n", b"Expect: 100-continue\r\n", b"Via: 1.1 a\r\n"),
    *(b"X-Forwarded-For: 1\r\n", b"X_Y: 1\r\n", b"Content_Length: 1\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n"),
    *(b"0\r\nX: y\r\n\r\n", b";a=b", b';a="\\""', b"fffffffffffffff", b"00", b"204", b"304"),
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
)


def mutated(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """One of ``seeds`` with a few changes."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 3, 5))):
        at = chance.randint(0, len(data))
        size = chance.choice((0, 1, 1, 2, 4, 16, 64))
        match chance.randrange(7):
            case 0:
                data[at:at] = chance.choice(TOKENS)
            case 1:
                data[at : at + size] = chance.choice(TOKENS)
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size] * chance.choice((1, 1, 2, 20))
            case 4:
                other = chance.choice(seeds)
                start = chance.randint(0, len(other))
                data[at : at + size] = other[start : start + chance.choice((1, 4, 16, 256))]
            case 5 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case _:
                data[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(data[:MAX_BYTES])


def run(
    target: Callable[[bytes], object], seeds: Sequence[bytes], executions: int, seconds: float, seed: int
) -> tuple[int, set[object]]:
    """Run ``target`` so often or so long; return how often it ran and what it returned.

    Raises AssertionError naming the bytes that it failed on.
    """
    chance = random.Random(seed)
    outcomes = set()
    deadline = time.monotonic() + seconds
    for number in range(executions):
        data = seeds[number] if number < len(seeds) else mutated(seeds, chance)
        try:
            outcomes.add(target(data))
        except Exception as error:
            raise AssertionError(f"{target.__name__}({data!r}) fails") from error
        if number % 64 == 0 and time.monotonic() > deadline:
            return number + 1, outcomes
    return executions, outcomes
