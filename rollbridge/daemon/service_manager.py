"""Keeps the service manager informed, where there is one: the datagrams of ``notify.py`` to ``NOTIFY_SOCKET``.

Everything is sent from the event loop: a loop that is wedged says nothing, and is found out by that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Final

from rollbridge.daemon.events import EventLog
from rollbridge.daemon.notify import (
    EXTEND_EVERY_SECONDS,
    Facts,
    Message,
    Phase,
    encode,
    failure,
    more_time,
    news,
    socket_address,
    stop_seconds,
    watchdog_seconds,
)
from rollbridge.release.fleet import Fleet
from rollbridge.release.states import ReleaseState

_LOOK_AGAIN_SECONDS: Final = 0.5  # the end of an operation is no event of its own
_RETRY_SECONDS: Final = 5.0  # a manager that is not there is most likely never to come


class ServiceManager:
    """What the service manager knows of this daemon; without ``NOTIFY_SOCKET`` every method does nothing.

    ``follow`` once the fleet is there, ``ready`` when it serves; the rest is seen by looking, whenever something
    happens. What could not be sent is made up for later: an event says so, and nothing fails because of it.
    """

    def __init__(self, environ: Mapping[str, str], events: EventLog) -> None:
        self._environ = environ
        self._events = events
        self._fleet: Fleet | None = None
        self._is_ready = False
        self._reloads = 0
        self._told: Facts | None = None
        self._phase = Phase.STARTING
        self._phase_since = time.monotonic()
        self._is_failing = False
        self._next_look: asyncio.Handle | None = None

    def follow(self, fleet: Fleet) -> None:
        """Begin to tell of ``fleet``, from the running loop."""
        if not self._environ.get("NOTIFY_SOCKET"):
            return
        self._fleet = fleet
        self._events.subscribe(lambda _: self._look_soon())
        self._look()
        self._ask_for_time()
        interval = watchdog_seconds(self._environ, os.getpid())
        if interval is not None:
            self._live(interval)

    def ready(self) -> None:
        """Say that the daemon serves; after an upgrade in place: that it serves again."""
        self._is_ready = True
        self._look()

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that what the daemon is is just being changed; and that it serves, when that is over."""
        self._reloads += 1
        self._look()
        try:
            yield
        finally:
            self._reloads -= 1
            self._look()

    # Looking

    def _facts(self, fleet: Fleet) -> Facts:
        if fleet.is_shutting_down:
            phase = Phase.STOPPING
        elif not self._is_ready:
            phase = Phase.STARTING
        else:
            phase = Phase.RELOADING if self._reloads else Phase.SERVING
        active = fleet.active
        return Facts(
            phase=phase,
            active=active.release_id if active is not None else None,
            draining=tuple(one.release_id for one in fleet.releases if one.state is ReleaseState.DRAINING),
            operation=str(fleet.operation) if fleet.operation is not None else None,
            is_stopped=fleet.idle_reason == "stopped",
        )

    def _look_soon(self, seconds: float = 0.0) -> None:
        """Look in the next turn of the loop, when whoever recorded an event has done what it tells of."""
        loop = asyncio.get_running_loop()
        if self._next_look is None:
            self._next_look = loop.call_later(seconds, self._look) if seconds else loop.call_soon(self._look)
        elif not seconds:
            self._next_look.cancel()
            self._next_look = loop.call_soon(self._look)

    def _look(self) -> None:
        if self._fleet is None:
            return
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        facts = self._facts(self._fleet)
        message = news(self._told, facts, time.monotonic())
        if facts.phase is not self._phase:
            self._phase, self._phase_since = facts.phase, time.monotonic()
            message |= self._more_time()
        if message and not self._send(message):
            self._look_soon(_RETRY_SECONDS)
            return
        self._told = facts
        if facts.operation is not None:
            self._look_soon(_LOOK_AGAIN_SECONDS)

    # What is said again and again

    def _ask_for_time(self) -> None:
        message = self._more_time()
        if message:
            self._send(message)
        asyncio.get_running_loop().call_later(EXTEND_EVERY_SECONDS, self._ask_for_time)

    def _more_time(self) -> Message:
        assert self._fleet is not None
        processes = (process.spec.process for process in self._fleet.all_processes())
        limit = stop_seconds(self._fleet.config.proxy, processes) if self._phase is Phase.STOPPING else 0.0
        return more_time(self._phase, time.monotonic() - self._phase_since, limit)

    def _live(self, interval: float) -> None:
        self._send({"WATCHDOG": "1"})
        asyncio.get_running_loop().call_later(interval, self._live, interval)

    def _send(self, message: Message) -> bool:
        """Return whether ``message`` was sent; a failure is an event, once until it works again."""
        try:
            send(self._environ["NOTIFY_SOCKET"], message)
        except OSError as error:
            if not self._is_failing:
                self._is_failing = True
                self._record_failure(error)
            return False
        self._is_failing = False
        return True

    def _record_failure(self, error: OSError) -> None:
        address = self._environ["NOTIFY_SOCKET"]
        self._events.record("service manager not told", {"socket": address, "error": error.strerror or str(error)})


def send(address: str, message: Message) -> None:
    """Send one datagram to what ``NOTIFY_SOCKET`` names, without ever waiting; raise OSError."""
    target = socket_address(address)
    if target is None:
        raise OSError(f"{address[:80]!r} is neither a path nor an abstract name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        sender.sendto(encode(message), target)


@contextlib.contextmanager
def failure_told(environ: Mapping[str, str], *kinds: type[Exception]) -> Iterator[None]:
    """Tell the service manager of an exception of ``kinds``, if there is one to tell, and let it go on."""
    try:
        yield
    except kinds as error:
        address = environ.get("NOTIFY_SOCKET")
        if address:
            # It will see the exit code, and the log has the words.
            with contextlib.suppress(OSError):
                send(address, failure(error))
        raise
