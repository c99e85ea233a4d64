"""One proxy worker as the supervisor sees it: the link to it, what it acknowledged, what it counts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Final

from rollbridge.process.identity import ProcessIdentity
from rollbridge.proxy.messages import (
    MAX_LINE_BYTES,
    Ack,
    BadMessage,
    Counts,
    Hello,
    Message,
    ReleaseCounts,
    Report,
    Retire,
    Route,
    Settings,
    Shutdown,
    Welcome,
    decode,
    encode,
)

_NOTHING: Final = ReleaseCounts()


class WorkerLink:
    """Speaks the worker protocol over one connected socket; ``on_change`` is called whenever a fact changed."""

    def __init__(
        self,
        index: int,
        identity: ProcessIdentity,
        socket_path: str,
        on_change: Callable[[], None],
        record: Callable[[str, dict[str, object]], None],
        digest: str = "",
        is_retiring: bool = False,
    ) -> None:
        self.index = index
        self.identity = identity
        self.socket_path = socket_path
        self.digest = digest  # of the code it runs; empty when that is not known
        self.is_retiring = is_retiring  # it accepts nothing more, and ends with its last connection
        self.acknowledged = 0  # generation of the last acknowledged route
        self.welcome: Welcome | None = None
        self.is_lost = False  # the link is closed: the worker is gone, or wedged
        self._counts = Counts()
        self._on_change = on_change
        self._record = record
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self, connected: socket.socket, already_read: bytes = b"") -> None:
        """Take ``connected`` (non-blocking, ours from now on); ``already_read`` is what was read from it before."""
        reader, self._writer = await asyncio.open_connection(sock=connected, limit=MAX_LINE_BYTES)
        if already_read:
            reader.feed_data(already_read)
        self._reading = asyncio.create_task(self._read(reader), name=f"worker {self.index} link")

    def send(self, message: Settings | Route | Retire | Shutdown | Hello) -> None:
        """Queue ``message``; a worker that is gone is found out by its exit, not here."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(message))

    def counts(self, release_key: str) -> ReleaseCounts:
        """Return what this worker has in flight on a release."""
        return self._counts.releases.get(release_key, _NOTHING)

    def totals(self) -> Mapping[str, int]:
        """Return its counters that belong to no release."""
        counts = self._counts
        return {"clients": counts.clients, "requests_total": counts.requests_total, "held": counts.held}

    @property
    def version(self) -> str | None:
        """The version of its code, None before it has answered."""
        return None if self.welcome is None else self.welcome.version

    def in_flight(self) -> int:
        """Return the requests in flight on all releases, tunnels left out."""
        return sum(counts.http for counts in self._counts.releases.values())

    async def close(self) -> None:
        """End the link; the worker itself is left as it is."""
        if self._writer is not None:
            self._writer.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                try:
                    self._take(decode(line))
                except BadMessage as error:
                    self._record("worker message refused", {"worker": self.index, "error": str(error)})
        except (OSError, ValueError) as error:
            self._record("worker link broken", {"worker": self.index, "error": str(error)})
        self.is_lost = True
        self._counts = Counts()
        self._on_change()

    def _take(self, message: Message) -> None:
        match message:
            case Ack(generation):
                if not self.acknowledged:
                    self._record("worker serving", {"worker": self.index, "pid": self.identity.pid})
                self.acknowledged = max(self.acknowledged, generation)
            case Counts():
                self._counts = message
            case Welcome(generation=generation, counts=counts):
                self.welcome, self._counts = message, counts
                self.acknowledged = max(self.acknowledged, generation)
            case Report(text, data):
                self._record(f"worker: {text}", {"worker": self.index, **data})
            case _:
                raise BadMessage(f"a worker does not send {type(message).__name__}")
        self._on_change()
