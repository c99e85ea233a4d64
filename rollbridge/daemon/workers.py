"""The proxy workers: started, told where requests go, replaced when they die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from rollbridge.config.model import ProxyConfig
from rollbridge.daemon.attach import AttachedWorker
from rollbridge.daemon.log_file import bound_file
from rollbridge.daemon.runtime_dir import RuntimeDirError
from rollbridge.daemon.worker_link import WorkerLink
from rollbridge.process.exits import describe_exit
from rollbridge.process.identity import signal_identity
from rollbridge.process.reaper import Child, Reaper, StartFailed
from rollbridge.proxy.messages import Hello, Route, Settings, Shutdown, Target
from rollbridge.proxy.messages import Upstream as WireUpstream
from rollbridge.release.release import Connections, RouteTarget
from rollbridge.runtime import UnsafeDirectory

_ACK_SECONDS: Final = 5.0  # a worker's loop turns in microseconds; one that does not answer by then is wedged
_START_SECONDS: Final = 20.0  # an interpreter's start takes 0.1 s; even a machine that swaps manages in this
_WORKERS_LOG_BYTES: Final = 1024 * 1024  # of a worker that dies at its start, again and again, the last will do
_STEADY_SECONDS: Final = 5.0  # a worker that lived so long did not die of its start
_MAX_RESPAWN_DELAY_SECONDS: Final = 5.0


def worker_count(configured: int | None) -> int:
    """Return how many workers to run; None means one per core this process may use."""
    return configured if configured is not None else len(os.sched_getaffinity(0))


def worker_settings(proxy: ProxyConfig) -> Settings:
    """Return what a worker must know of the config."""
    return Settings(
        hold_timeout_seconds=proxy.hold_timeout_seconds,
        head_timeout_seconds=proxy.head_timeout_seconds,
        idle_timeout_seconds=proxy.idle_timeout_seconds,
        response_timeout_seconds=proxy.response_timeout_seconds,
        max_head_bytes=proxy.max_head_bytes,
        max_connections=proxy.max_connections,
        trusted_proxies=tuple(str(network) for network in proxy.trusted_proxies),
        access_log=proxy.access_log,
    )


def respawn_delay(lived_seconds: float, previous_delay: float) -> float:
    """Return how long to wait before a worker that lived ``lived_seconds`` is started again (seconds)."""
    if lived_seconds >= _STEADY_SECONDS:
        return 0.0
    return min(_MAX_RESPAWN_DELAY_SECONDS, max(0.05, previous_delay * 2))


@dataclass(slots=True, eq=False)
class WorkerPool:
    """All workers of one daemon; the ``Traffic`` of its fleet.

    ``command`` runs this very code as a worker; ``put_back`` restores what that needs of the runtime directory if it
    was emptied, or raises OSError, RuntimeDirError or UnsafeDirectory. ``_changed`` is called for every new fact and
    wakes those who wait.
    """

    command: Sequence[str]
    put_back: Callable[[], None]
    listener: socket.socket
    runtime_dir: str
    settings: Settings
    count: int
    reaper: Reaper
    record: Callable[[str, dict[str, object]], None]
    on_change: Callable[[], None]  # identities changed: the state file must know
    attached: dict[int, AttachedWorker] = field(default_factory=dict)  # those an earlier daemon left, by index
    links: dict[int, WorkerLink] = field(default_factory=dict)
    _route: Route = field(default_factory=lambda: Route(generation=1, active=None))
    _wakers: set[asyncio.Event] = field(default_factory=set)
    _keepers: list[asyncio.Task[None]] = field(default_factory=list)
    _is_withheld: bool = False  # the first route is not sent yet: workers accept nothing
    _is_stopping: bool = False

    async def start(self) -> None:
        """Start every worker and return when all have acknowledged their first route; raise TimeoutError.

        With the first route withheld, return when all have answered.
        Returns early when ``stop`` is called meanwhile.
        """
        # A worker beyond the count serves until it ends: its clients are worth more than the number.
        wanted = sorted({*range(self.count), *self.attached})
        for index in wanted:
            self._keepers.append(asyncio.create_task(self._keep(index), name=f"proxy worker {index}"))
        async with asyncio.timeout(_START_SECONDS):
            await self._wait_for(lambda: self._is_stopping or (len(self.links) == len(wanted) and self._is_ready()))

    def withhold(self) -> None:
        """Accept no connection before the next ``switch``: clients wait in the kernel's queue, and lose nothing."""
        self._is_withheld = True

    def _is_ready(self) -> bool:
        if self._is_withheld:
            return all(link.welcome is not None for link in self.links.values())
        return self._all_acknowledged(self._route.generation)

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
            for link in list(self.links.values()):
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
        self._send_route(self.links.values())

    def _send_route(self, links: Iterable[WorkerLink]) -> None:
        if not self._is_withheld:
            for link in links:
                link.send(self._route)

    def connections(self, key: str) -> Connections:
        """Return what is in flight on a release, all workers together."""
        counts = [link.counts(key) for link in self.links.values()]
        return Connections(sum(one.http for one in counts), sum(one.websocket for one in counts))

    async def wait_until_idle(self, key: str) -> None:
        """Return when nothing is in flight on a release."""
        await self._wait_for(lambda: self.connections(key).total == 0)

    def reconfigure(self, settings: Settings) -> None:
        """Let every worker use ``settings`` for what starts from now on."""
        self.settings = settings
        for link in self.links.values():
            link.send(settings)

    async def stop(self, drain_seconds: float) -> None:
        """Stop accepting, let requests in flight end for at most ``drain_seconds``, then end the workers.

        Tunnels are not waited for: they may never end, and the application behind them is about to.
        """
        self._is_stopping = True
        self._changed()
        self.listener.close()
        for link in self.links.values():
            link.send(Shutdown(drain_seconds))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await self._wait_for(lambda: all(link.is_lost or not link.in_flight() for link in self.links.values()))
        for link in self.links.values():
            link.send(Shutdown(0.0))
        try:
            async with asyncio.timeout(_ACK_SECONDS):
                await asyncio.gather(*self._keepers, return_exceptions=True)
        except TimeoutError:
            for link in self.links.values():
                signal_identity(link.identity, 9)
            await asyncio.gather(*self._keepers, return_exceptions=True)

    def _all_acknowledged(self, generation: int) -> bool:
        """Whether no living worker is behind ``generation``; a dead one serves nobody."""
        return all(link.is_lost or link.acknowledged >= generation for link in self.links.values())

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

    async def _keep(self, index: int) -> None:
        """Run worker ``index`` for as long as the daemon lives, beginning with the one that already runs."""
        loop = asyncio.get_running_loop()
        delay = 0.0
        attached = self.attached.pop(index, None)
        if attached is not None:
            await self._attend(attached)
        while not self._is_stopping:
            began = loop.time()
            await self._run_once(index)
            if self._is_stopping:
                return
            delay = respawn_delay(loop.time() - began, delay)
            await asyncio.sleep(delay)

    async def _run_once(self, index: int) -> None:
        """Start worker ``index`` and return when it has ended."""
        socket_path = str(Path(self.runtime_dir, f"worker-{index}.sock"))
        # Whatever is missing now, descriptors or directories, may be there at the next attempt.
        try:
            self.put_back()
            ours, theirs = socket.socketpair()
        except (OSError, RuntimeDirError, UnsafeDirectory) as error:
            self.record("worker did not start", {"worker": index, "error": str(error)})
            return
        ours.setblocking(False)
        try:
            child = self._spawn(index, theirs.fileno(), socket_path)
        except (OSError, StartFailed) as error:
            ours.close()
            self.record("worker did not start", {"worker": index, "error": str(error)})
            return
        finally:
            theirs.close()
        self.record("worker started", {"worker": index, "pid": child.identity.pid})
        link = WorkerLink(index, child.identity, socket_path, self._changed, self.record)
        await link.open(ours)
        link.send(Hello())
        await self._follow(link, child)

    async def _attend(self, attached: AttachedWorker) -> None:
        """Carry on with a worker of an earlier daemon and return when it has ended."""
        child = self.reaper.watch(attached.identity)
        link = WorkerLink(attached.index, attached.identity, attached.socket_path, self._changed, self.record)
        await link.open(attached.link, attached.greeting)
        self.record("worker adopted", {"worker": attached.index, "pid": attached.identity.pid})
        await self._follow(link, child)

    async def _follow(self, link: WorkerLink, child: Child) -> None:
        """Tell the worker what it needs, list it, and return when it has ended."""
        self.reaper.protect(child.identity.pid)
        link.send(self.settings)
        self._send_route([link])
        # Listed in the same turn as its first route was sent: no route can fall between the two.
        self.links[link.index] = link
        self.on_change()
        status = await child.exit
        self.reaper.unprotect(child.identity.pid)
        await link.close()
        del self.links[link.index]
        if not self._is_stopping:
            self.record(
                "worker exited", {"worker": link.index, "pid": child.identity.pid, "how": describe_exit(status)}
            )
        with contextlib.suppress(OSError):  # the next worker replaces it
            Path(link.socket_path).unlink()
        self._changed()
        self.on_change()

    def _spawn(self, index: int, link_descriptor: int, socket_path: str) -> Child:
        argv = [
            *self.command,
            "_proxy-worker",
            f"--link-fd={link_descriptor}",
            f"--listen-fd={self.listener.fileno()}",
            f"--socket={socket_path}",
            f"--index={index}",
        ]
        # A file, not our own stderr: a worker outlives this daemon, and must not die of a closed pipe.
        path = Path(self.runtime_dir, "workers.log")
        bound_file(path, _WORKERS_LOG_BYTES)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return self.reaper.spawn(
                argv, cwd="/", env=None, stdout=log, stderr=log, pass_fds=(link_descriptor, self.listener.fileno())
            )
        finally:
            os.close(log)
