"""Load of every kind against the stable port, all at once, until told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Final

from rollbridge.demo import content, websocket, wire
from rollbridge.demo.client import Attempt, Clock, HttpClient, RequestFailed, WebSocketClient
from rollbridge.demo.ledger import Failure, Kind, Ledger

# Longer than any hold or restart of the demo: who waits so long waits for nothing.
ANSWER_SECONDS: Final = 10.0
# Clients of each kind. Two busy cores carry the app, the proxy and these, and must not be what is measured.
CLIENTS: Final = {
    Kind.KEEP_ALIVE: 4,
    Kind.NEW_CONNECTION: 2,
    Kind.UPLOAD: 2,
    Kind.DOWNLOAD: 2,
    Kind.SLOW: 3,
    Kind.WEBSOCKET: 8,
}
# How long a client thinks between two requests.
PAUSE_SECONDS: Final = {
    Kind.KEEP_ALIVE: 0.015,
    Kind.NEW_CONNECTION: 0.02,
    Kind.UPLOAD: 0.04,
    Kind.DOWNLOAD: 0.04,
    Kind.SLOW: 0.1,
    Kind.WEBSOCKET: 0.05,
}
MAX_BODY_BYTES: Final = 1024 * 1024
MAX_MESSAGE_BYTES: Final = 4096
SLOW_SECONDS: Final = (0.3, 1.2)
WEBSOCKET_SECONDS: Final = (1.0, 2.5)
# How long a WebSocket stays with a release that is being retired: well inside the drain time, and long
# enough to show that it may.
WEBSOCKET_LEAVE_SECONDS: Final = (0.2, 0.7)


@dataclass(frozen=True, slots=True)
class Sighting:
    """Who answered the newest GET, which was begun at ``started_at``."""

    release: str
    server_pid: int | None
    started_at: float


class Traffic:
    """Starts the clients, and writes what happens to them into ``ledger``."""

    def __init__(self, host: str, port: int, ledger: Ledger, clock: Clock, chance: random.Random) -> None:
        self._address = (host, port)
        self._ledger = ledger
        self._clock = clock
        self._chance = chance
        self._is_stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._expected: tuple[str, float] | None = None
        self.newest = Sighting("none", None, 0.0)

    def expect(self, release: str | None) -> None:
        """From now on a new request that is not answered by ``release`` is a failure; None: anybody may answer."""
        self._expected = None if release is None else (release, self._clock())

    def start(self) -> None:
        loops: dict[Kind, Callable[[], Coroutine[None, None, None]]] = {
            Kind.KEEP_ALIVE: self._get_kept_alive,
            Kind.NEW_CONNECTION: self._get_on_new_connections,
            Kind.UPLOAD: self._upload,
            Kind.DOWNLOAD: self._download,
            Kind.SLOW: self._wait_for_slow_answers,
            Kind.WEBSOCKET: self._talk_on_websockets,
        }
        for kind, count in CLIENTS.items():
            self._tasks += [asyncio.create_task(loops[kind]()) for _ in range(count)]

    async def finish(self) -> None:
        """Begin nothing new, and let every client end what it has."""
        self._is_stopping = True
        self._ledger.finish(self._clock())
        await asyncio.gather(*self._tasks)

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check(self) -> None:
        """Raise what a client died of: a defect of the demo, never of what it watches."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _get_kept_alive(self) -> None:
        client = self._new_client()
        await self._repeat(Kind.KEEP_ALIVE, lambda attempt: self._get(client, attempt, is_last=False))
        client.close()

    async def _get_on_new_connections(self) -> None:
        client = self._new_client()
        await self._repeat(Kind.NEW_CONNECTION, lambda attempt: self._get(client, attempt, is_last=True))

    async def _get(self, client: HttpClient, attempt: Attempt, *, is_last: bool) -> str:
        answer = await client.request(attempt, "GET", "/", is_last=is_last)
        if attempt.started_at > self.newest.started_at:
            self.newest = Sighting(answer.release, attempt.server_pid, attempt.started_at)
        return answer.release

    async def _upload(self) -> None:
        client = self._new_client()

        async def upload(attempt: Attempt) -> str:
            size = self._chance.randrange(MAX_BODY_BYTES)
            method, length = self._chance.choice([("PUT", size), ("POST", size), ("POST", None)])
            body = content.pieces(size)
            answer = await client.request(attempt, method, "/upload", body=body, length=length)
            if json.loads(answer.data) != {"bytes": size, "sha256": content.checksum(size)}:
                raise RequestFailed(f"{size} bytes went up, but the app got {answer.data[:100]!r}")
            return answer.release

        await self._repeat(Kind.UPLOAD, upload)
        client.close()

    async def _download(self) -> None:
        client = self._new_client()

        async def download(attempt: Attempt) -> str:
            size = self._chance.randrange(MAX_BODY_BYTES)
            answer = await client.request(attempt, "GET", f"/download?bytes={size}&chunked={size % 2}")
            if len(answer.data) != size or answer.sha256 != content.checksum(size):
                raise RequestFailed(f"{len(answer.data)} bytes came down, and not the {size} that were asked for")
            return answer.release

        await self._repeat(Kind.DOWNLOAD, download)
        client.close()

    async def _wait_for_slow_answers(self) -> None:
        client = self._new_client()

        async def wait(attempt: Attempt) -> str:
            answer = await client.request(attempt, "GET", f"/slow?seconds={self._chance.uniform(*SLOW_SECONDS):.2f}")
            if not answer.data.endswith(b"\ndone\n"):
                raise RequestFailed("a slow answer has no end")
            return answer.release

        await self._repeat(Kind.SLOW, wait)
        client.close()

    async def _talk_on_websockets(self) -> None:
        while not self._is_stopping:
            await self._talk_on_websocket(WebSocketClient(*self._address, self._clock))
            await self._pause(Kind.WEBSOCKET)

    async def _talk_on_websocket(self, client: WebSocketClient) -> None:
        """Open, echo for a while, close; soon after another release answers new requests, if that comes first."""

        async def open_websocket(attempt: Attempt) -> str:
            await client.open(attempt)
            return client.release

        async def echo(attempt: Attempt) -> str:
            await client.echo(os.urandom(self._chance.randrange(1, MAX_MESSAGE_BYTES)))
            return client.release

        async def close(attempt: Attempt) -> str:
            await client.close()
            return client.release

        handshake = Attempt(self._clock())
        try:
            if not await self._attempt(Kind.WEBSOCKET, open_websocket, handshake):
                return
            self._ledger.websockets_opened += 1
            leave_at = self._clock() + self._chance.uniform(*WEBSOCKET_SECONDS)
            has_outlived = False
            while self._clock() < leave_at and not self._is_stopping:
                await self._pause(Kind.WEBSOCKET)
                if not await self._attempt(Kind.WEBSOCKET, echo, self._message_of(handshake), is_open_websocket=True):
                    return
                is_retired = self.newest.release != client.release and self.newest.started_at > handshake.started_at
                if is_retired and not has_outlived:
                    has_outlived = True
                    self._ledger.websockets_outlived_switch += 1
                    leave_at = min(leave_at, self._clock() + self._chance.uniform(*WEBSOCKET_LEAVE_SECONDS))
            await self._attempt(Kind.WEBSOCKET, close, self._message_of(handshake), is_open_websocket=True)
        finally:
            client.drop()

    def _message_of(self, handshake: Attempt) -> Attempt:
        """An attempt that begins now, and that fails as the WebSocket that was opened with ``handshake``."""
        return Attempt(self._clock(), handshake.sent_at, handshake.server_pid)

    async def _repeat(self, kind: Kind, operation: Callable[[Attempt], Awaitable[str]]) -> None:
        while not self._is_stopping:
            await self._attempt(kind, operation, Attempt(self._clock()))
            await self._pause(kind)

    async def _attempt(
        self,
        kind: Kind,
        operation: Callable[[Attempt], Awaitable[str]],
        attempt: Attempt,
        *,
        is_open_websocket: bool = False,
    ) -> bool:
        """Run ``operation``, which returns the release that answered, and record how it went."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                release = await operation(attempt)
            if not is_open_websocket:
                self._check_release(attempt, release)
        except TimeoutError:
            reason, is_cut = f"no answer within {ANSWER_SECONDS:g} s", False
        except RequestFailed as error:
            reason, is_cut = str(error), error.is_cut
        except (wire.Truncated, ConnectionError) as error:
            reason, is_cut = str(error), True
        except (wire.BadMessage, websocket.BadFrame, ValueError, OSError) as error:
            reason, is_cut = f"{type(error).__name__}: {error}", False
        else:
            self._ledger.succeeded(kind, attempt.started_at, self._clock(), release)
            return True
        failure = Failure(kind, attempt.sent_at, self._clock(), reason, is_cut, attempt.server_pid)
        self._ledger.failed(failure, is_websocket_cut=is_open_websocket)
        return False

    def _check_release(self, attempt: Attempt, release: str) -> None:
        if self._expected is not None:
            expected, since = self._expected
            if attempt.started_at > since and release != expected:
                raise RequestFailed(f"answered by {release}, though all traffic goes to {expected}")

    async def _pause(self, kind: Kind) -> None:
        await asyncio.sleep(PAUSE_SECONDS[kind] * self._chance.uniform(0.5, 1.5))

    def _new_client(self) -> HttpClient:
        return HttpClient(*self._address, self._clock)
