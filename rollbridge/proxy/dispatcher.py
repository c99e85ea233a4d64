"""Sends each exchange to an upstream of the active release; keeps those waiting for which there is none."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from rollbridge.proxy.loop import Loop
from rollbridge.proxy.messages import Route, Settings, Target
from rollbridge.proxy.routing import active_target
from rollbridge.proxy.timers import NEVER
from rollbridge.proxy.upstream import CONNECT_SECONDS, Backend, Release, UpstreamConnection, open_connection

if TYPE_CHECKING:
    from rollbridge.proxy.exchange import Exchange

# Requests that wait for an upstream. Five seconds at 200 requests a second; each may hold a head and as much body as a
# connection buffers, so that both are bounded.
MAX_HELD: Final = 1000
MAX_HELD_BYTES: Final = 32 * 1024 * 1024

RETRY_AFTER_HOLD_SECONDS: Final = 1  # an application that restarts is back soon
RETRY_AFTER_STOPPED_SECONDS: Final = 5  # one that somebody has stopped is not


class Dispatcher:
    """The route as it is now, and the queue of held exchanges, oldest first."""

    def __init__(
        self,
        loop: Loop,
        *,
        report: Callable[[str, dict[str, object]], None],
        count_changed: Callable[[Release], None],
        totals_changed: Callable[[], None],
        accepted: Callable[[], None],
    ) -> None:
        self.loop = loop
        self.settings = Settings()
        self.route = Route(0, None)
        self.releases: dict[str, Release] = {}
        self.active: Release | None = None
        self.count_changed = count_changed
        self.report = report
        self.deadline = NEVER
        self.queued_for = NEVER
        self._accepted = accepted
        self._totals_changed = totals_changed
        self._held: OrderedDict[Exchange, int] = OrderedDict()
        self._held_bytes = 0
        self._connecting: dict[Exchange, UpstreamConnection] = {}

    @property
    def held(self) -> int:
        return len(self._held)

    # The route.

    def apply(self, route: Route) -> None:
        """Make ``route`` the truth: on return no request not yet sent can go anywhere else."""
        self.route = route
        listed = {target.release_key for target in route.targets}
        for target in route.targets:
            release = self.releases.setdefault(target.release_key, Release(target.release_key))
            self._update_backends(release, target)
        active = active_target(route)
        self.active = None if active is None else self.releases[active.release_key]
        for release in list(self.releases.values()):
            release.is_active = release is self.active
            if not release.is_active:
                for backend in release.backends:
                    backend.close_idle()
            if release.key not in listed and not release.http and not release.websocket:
                del self.releases[release.key]
        for exchange in sorted(self._connecting, key=_number):
            connection = self._connecting[exchange]
            if not connection.backend.release.is_active or not connection.backend.is_up:
                del self._connecting[exchange]
                connection.close()
                self.dispatch(exchange)
        self._release_held()

    def forget_if_done(self, release: Release) -> None:
        """Drop a release that has left the route and has answered its last request."""
        if release.http or release.websocket or release.is_active:
            return
        if all(target.release_key != release.key for target in self.route.targets):
            self.releases.pop(release.key, None)

    def _update_backends(self, release: Release, target: Target) -> None:
        known = {backend.address: backend for backend in release.backends}
        release.backends = []
        for upstream in target.upstreams:
            address = (upstream.host, upstream.port)
            backend = known.pop(address, None) or Backend(release, address)
            if upstream.is_up and not backend.is_up:
                backend.trust()
            backend.is_up = upstream.is_up
            if not backend.is_up:
                backend.close_idle()
            release.backends.append(backend)
        for backend in known.values():
            backend.is_up = False
            backend.close_idle()

    # Exchanges.

    def dispatch(self, exchange: Exchange) -> None:
        """Send ``exchange`` to an upstream, connect to one for it, keep it waiting, or answer that there is none."""
        if self._held:
            self._hold(exchange)  # behind those that came before it
        else:
            self._place(exchange)

    def _place(self, exchange: Exchange) -> None:
        while True:
            release = self.active
            if release is None:
                if self.route.hold:
                    self._hold(exchange)
                else:
                    exchange.fail(503, "no release is active here", RETRY_AFTER_STOPPED_SECONDS)
                return
            backend = release.pick(self.loop.now)
            if backend is None:
                self._hold(exchange)
                return
            if exchange.is_repeatable and self._send_reused(exchange, backend):
                return
            try:
                connection = open_connection(self.loop, backend, self)
            except OSError as error:
                self._note_failure(backend, str(error))
                continue
            connection.exchange = exchange
            if connection.is_connecting:
                self._connecting[exchange] = connection
                self.loop.deadlines.set(connection, self.loop.now + CONNECT_SECONDS)
            else:
                self._note_success(backend)
                exchange.send(connection, is_reused=False)
            return

    def forget(self, exchange: Exchange) -> None:
        """``exchange`` is over before it was sent: its client has gone."""
        connection = self._connecting.pop(exchange, None)
        if connection is not None:
            connection.close()
        self._unhold(exchange)

    def connected(self, connection: UpstreamConnection, exchange: Exchange | None) -> None:
        """A connection has been made; ``exchange`` None: only to see whether somebody listens."""
        self._note_success(connection.backend)
        if exchange is None:
            connection.rest_idle()
            return
        self._connecting.pop(exchange, None)
        connection.exchange = exchange
        exchange.send(connection, is_reused=False)
        self._release_held()

    def connect_failed(self, backend: Backend, exchange: Exchange | None, why: str) -> None:
        self._note_failure(backend, why)
        if exchange is not None:
            self._connecting.pop(exchange, None)
            self._place(exchange)

    def probe(self) -> None:
        """Connect to every upstream of the active release, to see whether somebody listens."""
        for backend in self.active.backends if self.active is not None else ():
            if backend.connecting:
                continue
            try:
                connection = open_connection(self.loop, backend, self)
            except OSError:
                continue
            if connection.is_connecting:
                self.loop.deadlines.set(connection, self.loop.now + CONNECT_SECONDS)
            else:
                self.connected(connection, None)

    def _send_reused(self, exchange: Exchange, backend: Backend) -> bool:
        while backend.idle:
            connection = backend.idle.pop()
            connection.take(exchange)
            if not connection.is_doubtful or connection.is_silent():
                exchange.send(connection, is_reused=True)
                return True
            connection.close()
        return False

    def _note_success(self, backend: Backend) -> None:
        self._accepted()
        if backend.is_suspect:
            backend.trust()
            if self._held:
                self.loop.after_turn(self._release_held)

    def _note_failure(self, backend: Backend, why: str) -> None:
        if not backend.is_suspect:
            self.report(
                "upstream unreachable",
                {"release": backend.release.key, "host": backend.address[0], "port": backend.address[1], "error": why},
            )
        backend.connect_failed(self.loop.now)

    # Those that wait.

    def _hold(self, exchange: Exchange) -> None:
        if self.loop.now >= self._patience_ends(exchange):
            self._give_up(exchange)
            return
        size = exchange.held_bytes()
        is_too_much = len(self._held) >= MAX_HELD or self._held_bytes + size > MAX_HELD_BYTES
        if is_too_much and not exchange.has_waited:
            exchange.fail(503, "too many requests wait for the application", RETRY_AFTER_HOLD_SECONDS)
            return
        exchange.has_waited = True  # and keeps its place, whoever comes while it is tried
        self._insert(exchange, size)
        self._totals_changed()
        exchange.client.stop_reading()  # what a held request may keep in memory is settled now
        self._schedule(min(self.deadline, self._patience_ends(exchange)))

    def _insert(self, exchange: Exchange, size: int) -> None:
        """Put it in its place: nearly always it is the newest, else one of the oldest, which was tried in vain."""
        is_newest = not self._held or next(reversed(self._held)).number < exchange.number
        older = () if is_newest else tuple(takewhile(lambda one: one.number < exchange.number, self._held))
        self._held[exchange] = size
        self._held_bytes += size
        if not is_newest:
            for one in (exchange, *reversed(older)):
                self._held.move_to_end(one, last=False)

    def _unhold(self, exchange: Exchange) -> bool:
        size = self._held.pop(exchange, None)
        if size is None:
            return False
        self._held_bytes -= size
        self._totals_changed()
        return True

    def _patience_ends(self, exchange: Exchange) -> float:
        return exchange.waits_since + self.settings.hold_timeout_seconds

    def _give_up(self, exchange: Exchange) -> None:
        if self.active is None:
            exchange.fail(503, "no release is active here", RETRY_AFTER_STOPPED_SECONDS)
        else:
            exchange.fail(502, "the application does not accept connections", RETRY_AFTER_HOLD_SECONDS)

    def _release_held(self) -> None:
        """Dispatch the held exchanges in order, as far as there are upstreams, or it is clear that there are none."""
        try:
            for exchange in list(self._held):
                if not self._is_decided():
                    break
                if self._unhold(exchange):
                    exchange.client.resume_reading_if_wanted()
                    self._place(exchange)
        finally:
            self._schedule(min((self._patience_ends(one) for one in self._held), default=NEVER))

    def _is_decided(self) -> bool:
        """Whether the next of those that wait has nothing to wait for any more."""
        if self.active is None:
            return not self.route.hold
        return self.active.pick(self.loop.now) is not None

    def _schedule(self, patience_ends: float) -> None:
        if not self._held:
            self.deadline = NEVER
            return
        due = patience_ends
        if self.active is not None:
            due = min(due, max(self.active.next_try(), self.loop.now + 0.001))
        self.loop.deadlines.set(self, due)

    def expired(self) -> None:
        """Something is due for those that wait: a new attempt, or the end of their patience."""
        # Not only the oldest: one that was sent meanwhile, in vain, began to wait anew.
        for exchange in [one for one in self._held if self._patience_ends(one) <= self.loop.now]:
            if self._unhold(exchange):
                self._give_up(exchange)
        self._release_held()


def _number(exchange: Exchange) -> int:
    return exchange.number
