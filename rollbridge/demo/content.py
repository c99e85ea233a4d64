"""The bytes that the demo moves: the same on both ends, made twice, compared by length and sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

# A prime length, so that no buffer size of anybody divides it: a piece that is lost,
# doubled or swapped changes the sum even when the length stays right.
BLOCK_BYTES: Final = 65521


def block() -> bytes:
    """The repeated block: 0..250 over and over, so that neighbours always differ."""
    return (bytes(range(251)) * (BLOCK_BYTES // 251 + 1))[:BLOCK_BYTES]


def pieces(size: int) -> Iterator[bytes]:
    """``size`` bytes of content, block by block."""
    whole = block()
    for start in range(0, size, BLOCK_BYTES):
        yield whole[: size - start]


def checksum(size: int) -> str:
    """The sha256 of ``size`` bytes of content, in hex."""
    digest = hashlib.sha256()
    for piece in pieces(size):
        digest.update(piece)
    return digest.hexdigest()
