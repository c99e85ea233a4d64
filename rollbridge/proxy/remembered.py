"""What was understood before: by the very bytes that it was understood from, within bounds, and not for long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

V = TypeVar("V")

# Of each of the two generations. A browser's fields with a cookie take about 3 KiB with all that is made of them, so
# that some 300 clients that are busy at the same time are remembered.
MAX_ENTRIES: Final = 512
MAX_BYTES: Final = 512 * 1024
# Longer ones are rare, and would push out many others.
MAX_KEY_BYTES: Final = 4096
# What is not asked for is forgotten after one to two times so long: Cookie and Authorization are among the bytes, and
# are not to lie about in the memory of a worker that has nothing to do.
FORGET_SECONDS: Final = 10.0
# Bytes met once leave a fingerprint only, and there is room for so many. A power of two.
_FINGERPRINTS: Final = 2048


class Remembered(Generic[V]):
    """Values by the exact bytes they were made from. Whatever else a value depends on must not be in it.

    Bytes are kept when they are met for the second time: a flood of ever new ones costs a hash each, and pushes
    nothing out. Two generations of entries: what is asked for moves to the young one, and when that is full or some
    time has passed the old one is dropped as a whole.
    """

    __slots__ = ("_bytes", "_fingerprints", "_has_kept", "_old", "_young")

    def __init__(self, has_kept: Callable[[], None]) -> None:
        """``has_kept`` is called when something was kept: time to see that it is forgotten again."""
        self._young: dict[bytes, tuple[V, int]] = {}
        self._old: dict[bytes, tuple[V, int]] = {}
        self._bytes = 0  # of the young
        self._fingerprints = [0] * _FINGERPRINTS
        self._has_kept = has_kept

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def recall(self, key: bytes) -> V | None:
        """What was learned of ``key``; None when it is not known (any more)."""
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.pop(key, None)
            if entry is None:
                return None
            self._keep(key, entry)
        return entry[0]

    def learn(self, key: bytes, value: V, size_bytes: int) -> None:
        """Keep ``value`` if ``key`` was met before; the two take about ``size_bytes`` of memory."""
        if len(key) > MAX_KEY_BYTES:
            return
        fingerprint = hash(key)  # with a seed of this process: nobody outside can choose keys that meet
        slot = fingerprint & (_FINGERPRINTS - 1)
        if self._fingerprints[slot] != fingerprint:
            self._fingerprints[slot] = fingerprint
            return
        self._fingerprints[slot] = 0
        self._keep(key, (value, size_bytes))
        self._has_kept()

    def age(self) -> bool:
        """Let the old go, and the young become old; whether there is anything left to be forgotten."""
        self._old, self._young = self._young, {}
        self._bytes = 0
        return bool(self._old)

    def _keep(self, key: bytes, entry: tuple[V, int]) -> None:
        if len(self._young) >= MAX_ENTRIES or self._bytes + entry[1] > MAX_BYTES:
            self.age()
        self._young[key] = entry
        self._bytes += entry[1]
