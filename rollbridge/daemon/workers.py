"""The proxy workers: started, told where requests go, replaced when they die or run other code."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from rollbridge.daemon.attach import AttachedWorker
from rollbridge.daemon.worker_link import WorkerLink
from rollbridge.daemon.worker_start import WorkerNotStarted, WorkerStarter, respawn_delay
from rollbridge.process.exits import describe_exit
from rollbridge.process.identity import signal_identity
from rollbridge.process.reaper import Child
from rollbridge.proxy.messages import Hello, Retire, Route, Settings, Shutdown, Target
from rollbridge.proxy.messages import Upstream as WireUpstream
from rollbridge.release.release import Connections, RouteTarget

_ACK_SECONDS: Final = 5.0  # a worker's loop turns in microseconds; one that does not answer by then is wedged
_START_SECONDS: Final = 20.0  # an interpreter's start takes 0.1 s; even a machine that swaps manages in this


@dataclass(slots=True, eq=False)
class WorkerPool:
    """All workers of one daemon; the ``Traffic`` of its fleet.

    There are ``count`` places, each with one worker that accepts. Others may live beside them: those that were
    replaced serve the connections they have until the last has ended. ``_changed`` is called for every new fact and
    wakes those who wait.
    """

    starter: WorkerStarter
    settings: Settings
    count: int
    record: Callable[[str, dict[str, object]], None]
    on_change: Callable[[], None]  # identities changed: the state file must know
    attached: Sequence[AttachedWorker] = ()  # those that an earlier daemon left
    links: list[WorkerLink] = field(default_factory=list)  # of every living worker, oldest first
    _route: Route = field(default_factory=lambda: Route(generation=1, active=None))
    _wakers: set[asyncio.Event] = field(default_factory=set)
    _keepers: list[asyncio.Task[None]] = field(default_factory=list)
    _is_withheld: bool = False  # the first route is not sent yet: workers accept nothing
    _is_stopping: bool = False

    async def start(self) -> None:
        """Fill every place; return when all workers have acknowledged their first route; raise TimeoutError.

        With the first route withheld, return when all have answered. Workers of other code than ours, and those beyond
        the count, serve until their successors do, and retire then. Returns early when ``stop`` is called meanwhile.
        """
        adopted = [(await self._adopt(worker)) for worker in self.attached]
        places: dict[int, tuple[WorkerLink, Child]] = {}
        others = []
        for link, child in adopted:
            if link.index < self.count and link.index not in places and self._is_current(link):
                places[link.index] = (link, child)
            else:
                others.append(link)
                self._begin(self._follow(link, child), f"former proxy worker {link.index}")
        for index in range(self.count):
            self._begin(self._keep(index, places.get(index)), f"proxy worker {index}")
        async with asyncio.timeout(_START_SECONDS):
            await self._wait_for(lambda: self._is_stopping or (self._is_complete() and self._are_all_told()))
        if not self._is_stopping:
            for link in others:
                self._retire(link)

    def _begin(self, keeping: Coroutine[None, None, None], name: str) -> None:
        self._keepers.append(asyncio.create_task(keeping, name=name))

    def _is_current(self, link: WorkerLink) -> bool:
        return link.digest == self.starter.digest and not link.is_retiring

    def _is_complete(self) -> bool:
        """Whether every place has a worker of ours that lives and is ready to serve."""
        return {link.index for link in self.links if self._is_current(link) and self._is_up(link)} >= set(
            range(self.count)
        )

    def _are_all_told(self) -> bool:
        return self._is_withheld or self._all_acknowledged(self._route.generation)

    def _is_up(self, link: WorkerLink) -> bool:
        is_ready = link.welcome is not None if self._is_withheld else link.acknowledged >= self._route.generation
        return is_ready and not link.is_lost

    def _retire(self, link: WorkerLink) -> None:
        """Let a worker end with its last connection; told again when an earlier daemon has told it already."""
        if not link.is_retiring:
            self.record("worker retiring", {"worker": link.index, "pid": link.identity.pid})
        link.is_retiring = True
        link.send(Retire())
        self.on_change()

    def withhold(self) -> None:
        """Accept no connection before the next ``switch``: clients wait in the kernel's queue, and lose nothing."""
        self._is_withheld = True

    async def switch(self, active: str | None, reason: str, targets: tuple[RouteTarget, ...]) -> None:
        """Send the route; return when every worker has acknowledged it.

        A worker that does not within five seconds is wedged: it is killed and replaced, and a
        replacement accepts nothing before it knows the newest route.
        """
        self._is_withheld = False
        self.announce(active, reason, targets)
        generation = self._route.generation
        try:
            async with asyncio.timeout(_ACK_SECONDS):
                await self._wait_for(lambda: self._all_acknowledged(generation))
        except TimeoutError:
            for link in list(self.links):
                if link.acknowledged < generation:
                    self.record("worker killed: no answer", {"worker": link.index, "pid": link.identity.pid})
                    signal_identity(link.identity, 9)
            await self._wait_for(lambda: self._all_acknowledged(generation))

    def begin_after(self, generation: int) -> None:
        """Number routes above ``generation``, the newest that an attached worker knows."""
        self._route = replace(self._route, generation=max(self._route.generation, generation))

    def announce(self, active: str | None, reason: str, targets: tuple[RouteTarget, ...]) -> None:
        """Send the route to every worker without waiting for their answers."""
        self._route = Route(
            generation=self._route.generation + 1,
            active=active,
            reason=reason,
            targets=tuple(
                Target(
                    target.key,
                    tuple(WireUpstream(upstream.host, upstream.port, upstream.is_up) for upstream in target.upstreams),
                )
                for target in targets
            ),
        )
        self._send_route(self.links)

    def _send_route(self, links: Iterable[WorkerLink]) -> None:
        if not self._is_withheld:
            for link in links:
                link.send(self._route)

    def connections(self, key: str) -> Connections:
        """Return what is in flight on a release, all workers together."""
        counts = [link.counts(key) for link in self.links]
        return Connections(sum(one.http for one in counts), sum(one.websocket for one in counts))

    async def wait_until_idle(self, key: str) -> None:
        """Return when nothing is in flight on a release."""
        await self._wait_for(lambda: self.connections(key).total == 0)

    def reconfigure(self, settings: Settings) -> None:
        """Let every worker use ``settings`` for what starts from now on."""
        self.settings = settings
        for link in self.links:
            link.send(settings)

    async def stop(self, drain_seconds: float) -> None:
        """Stop accepting, let requests in flight end for at most ``drain_seconds``, then end the workers.

        Tunnels are not waited for: they may never end, and the application behind them is about to.
        """
        self._is_stopping = True
        self._changed()
        self.starter.listener.close()
        for link in self.links:
            link.send(Shutdown(drain_seconds))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await self._count_anew()
                await self._wait_for(lambda: all(link.is_lost or not link.in_flight() for link in self.links))
        for link in self.links:
            link.send(Shutdown(0.0))
        try:
            async with asyncio.timeout(_ACK_SECONDS):
                await asyncio.gather(*self._keepers, return_exceptions=True)
        except TimeoutError:
            for link in self.links:
                signal_identity(link.identity, 9)
            await asyncio.gather(*self._keepers, return_exceptions=True)
        self.starter.remove_sockets()

    async def _count_anew(self) -> None:
        """Return when every worker has counted what it has in flight since this was called.

        What it tells by itself may be a twentieth of a second old. Before it acknowledges a route it counts; and by the
        second time it has also read what had arrived when it was told of the first.
        """
        for _ in range(0 if self._is_withheld else 2):
            self._route = replace(self._route, generation=self._route.generation + 1)
            self._send_route(self.links)
            generation = self._route.generation
            await self._wait_for(lambda generation=generation: self._all_acknowledged(generation))  # type: ignore[misc]  # the default binds the loop's value

    def _all_acknowledged(self, generation: int) -> bool:
        """Whether no living worker is behind ``generation``; a dead one serves nobody."""
        return all(link.is_lost or link.acknowledged >= generation for link in self.links)

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            while not condition():
                await waker.wait()
                waker.clear()
        finally:
            self._wakers.discard(waker)

    def _changed(self) -> None:
        for waker in self._wakers:
            waker.set()

    async def _keep(self, index: int, adopted: tuple[WorkerLink, Child] | None) -> None:
        """Keep place ``index`` filled for as long as the daemon lives, beginning with who has it already."""
        loop = asyncio.get_running_loop()
        delay = 0.0
        if adopted is not None:
            await self._follow(*adopted)
        while not self._is_stopping:
            began = loop.time()
            await self._run_once(index)
            if self._is_stopping:
                return
            delay = respawn_delay(loop.time() - began, delay)
            await asyncio.sleep(delay)

    async def _run_once(self, index: int) -> None:
        """Start worker ``index`` and return when it has ended."""
        taken = {Path(link.socket_path).name for link in self.links}
        try:
            child, connected, socket_path = self.starter.start(index, taken)
        except WorkerNotStarted as error:
            self.record("worker did not start", {"worker": index, "error": str(error)})
            return
        self.record("worker started", {"worker": index, "pid": child.identity.pid})
        link = WorkerLink(index, child.identity, socket_path, self._changed, self.record, digest=self.starter.digest)
        await link.open(connected)
        link.send(Hello())
        self._list(link)
        await self._follow(link, child)

    async def _adopt(self, attached: AttachedWorker) -> tuple[WorkerLink, Child]:
        """List a worker of an earlier daemon."""
        child = self.starter.reaper.watch(attached.identity)
        link = WorkerLink(
            attached.index,
            attached.identity,
            attached.socket_path,
            self._changed,
            self.record,
            digest=attached.digest,
            is_retiring=attached.is_retiring,
        )
        await link.open(attached.link, attached.greeting)
        self.record("worker adopted", {"worker": attached.index, "pid": attached.identity.pid})
        self._list(link)
        return link, child

    def _list(self, link: WorkerLink) -> None:
        """Tell the worker what it needs, and list it in the same turn: no route can fall between the two."""
        self.starter.reaper.protect(link.identity.pid)
        link.send(self.settings)
        self._send_route([link])
        self.links.append(link)
        self.on_change()

    async def _follow(self, link: WorkerLink, child: Child) -> None:
        """Return when the worker has ended, and is listed no more."""
        status = await child.exit
        self.starter.reaper.unprotect(child.identity.pid)
        await link.close()
        with contextlib.suppress(OSError):  # the next worker replaces it
            Path(link.socket_path).unlink()
        self.links.remove(link)
        if not self._is_stopping:
            what = {"worker": link.index, "pid": child.identity.pid, "how": describe_exit(status)}
            has_retired = link.is_retiring and (status.is_success or not status.is_known)
            self.record("worker retired" if has_retired else "worker exited", what)
        self._changed()
        self.on_change()
