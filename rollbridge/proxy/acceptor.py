"""Takes clients from the listening socket, as long as there is room for them."""

from __future__ import annotations

import errno
import ipaddress
import resource
import select
import socket
from typing import TYPE_CHECKING, Final

from rollbridge.proxy.client import Client
from rollbridge.proxy.forward import ClientFacts
from rollbridge.proxy.messages import Settings
from rollbridge.proxy.routing import is_ahead
from rollbridge.proxy.shares import Shares
from rollbridge.proxy.stream import READ
from rollbridge.proxy.timers import NEVER

if TYPE_CHECKING:
    from rollbridge.proxy.worker import Worker

# Accepted in one turn at most: enough to empty a burst quickly, few enough to leave some to the other workers.
BATCH: Final = 32
# Out of descriptors or memory: looked at again after so long. Whoever is waiting stays in the kernel's queue.
PAUSE_SECONDS: Final = 0.1
# What befell one client before it was taken, or its network (accept(2)): the next one may fare better. All else is a
# shortage, or lasts.
_PASSING: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.EPERM,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
    }
)
# Descriptors that clients and their requests leave: pipes, idle connections to the application, links, the log. A
# quarter of them where there are few.
SPARE_DESCRIPTORS: Final = 384
# How long a worker that has more clients than another one leaves those that come to the others. They have been woken
# by then, and on a busy machine have had a chance to run; if none of them can, a client has waited for no longer.
STEP_BACK_SECONDS: Final = 0.002
# With short connections each worker is ahead half of the time, and need not wait for anybody: within so long a worker
# steps back again only with more clients than the last time, as in a burst of those that stay.
STEADY_SECONDS: Final = 0.1
# To go to the end of the line takes two calls, and matters when clients come one by one.
LINE_UP_SECONDS: Final = 0.002
MAX_REMEMBERED_ADDRESSES: Final = 10_000

# Set on the listening socket: accepted ones inherit them. Probes find out within 90 seconds that a silent peer has
# vanished without a word, tunnels above all.
_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


def client_limit(max_connections: int, descriptors: int) -> int:
    """How many clients to take: a request needs a second descriptor, and whoever was taken shall be served."""
    if descriptors < 0:  # RLIM_INFINITY
        return max_connections
    return max(1, min(max_connections, (descriptors - min(SPARE_DESCRIPTORS, descriptors // 4)) // 2))


class Acceptor:
    """Closed until the first route is known; pauses at ``max_connections`` and when descriptors run out.

    The kernel wakes for each client the one of the sleeping workers that has watched for the longest. So whoever has
    taken one goes to the end of that line; and whoever gets ahead of another steps back for a moment, as one that is
    running takes all of a burst before the others have even woken up.
    """

    def __init__(self, worker: Worker, listener: socket.socket, shares: Shares) -> None:
        self.listener = listener
        self._shares = shares
        self.has_listener = True
        self.deadline = NEVER
        self.queued_for = NEVER
        self._worker = worker
        self._is_open = False  # may accept at all
        self._is_watching = False
        self._stepped_back_with = 0  # clients, until ...
        self._is_steady_until = 0.0
        self._lines_up_at = 0.0
        self._max_connections = self._limit(worker.settings)
        self._trusted = _networks(worker.settings)
        self._facts: dict[str, ClientFacts] = {}
        for level, option, value in _OPTIONS:
            listener.setsockopt(level, option, value)
        host, port = listener.getsockname()[:2]
        self._port = port
        self._local_host = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()

    def settings_changed(self, settings: Settings) -> None:
        self._max_connections = self._limit(settings)
        self._trusted = _networks(settings)
        self._facts.clear()
        self.room_changed()

    def _limit(self, settings: Settings) -> int:
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return client_limit(settings.max_connections, soft)

    def open(self) -> None:
        if not self._worker.is_leaving:
            self._is_open = True
            self.room_changed()

    def room_changed(self) -> None:
        """Watch the listening socket exactly while a client could be taken."""
        worker = self._worker
        clients = len(worker.clients) + len(worker.tunnels)
        has_room = clients < self._max_connections
        if self._is_open:
            self._shares.publish(clients)
        is_wanted = self._is_open and has_room and self.deadline == NEVER
        if is_wanted and not self._is_watching:
            # Exclusive: with several workers one of them is woken per connection, not all.
            worker.loop.register(self.listener.fileno(), READ | select.EPOLLEXCLUSIVE, self._on_event)
            self._is_watching = True
        elif not is_wanted:
            self._stop_watching()

    def close(self) -> None:
        """Accept nothing more; whoever is in the queue is left to the other holders of the socket."""
        if self._is_open:
            self._is_open = False
            self._shares.withdraw()
            self.room_changed()

    def let_go(self) -> None:
        """Accept nothing more, and give the socket up: nobody shall wait in its queue because of us alone."""
        self.close()
        if self.has_listener:
            self.has_listener = False
            self._worker.loop.close(self.listener)

    def expired(self) -> None:
        self.room_changed()

    def _on_event(self, _mask: int) -> None:
        worker = self._worker
        clients = len(worker.clients) + len(worker.tunnels)
        others = self._shares.others()
        has_taken = False
        for _ in range(min(BATCH, self._max_connections - clients)):
            try:
                sock, address = self.listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in _PASSING:
                    continue
                worker.loop.deadlines.set(self, worker.loop.now + PAUSE_SECONDS)
                self.room_changed()
                worker.report("no more connections", {"error": error.strerror or str(error)})
                return
            sock.setblocking(False)
            facts = self._facts.get(address[0]) or self._learn(address[0])
            worker.clients.add(Client(worker, sock, facts))
            worker.totals_changed()
            clients += 1
            has_taken = True
            # Not before one was taken: for the first that came perhaps nobody else was woken.
            if is_ahead(clients, others) and self._steps_back(clients):
                break
        if others and has_taken and worker.loop.now >= self._lines_up_at:
            self._lines_up_at = worker.loop.now + LINE_UP_SECONDS
            self._stop_watching()  # and watch again, from the end of the line
        self.room_changed()
        if self._max_connections <= clients and self._max_connections < worker.settings.max_connections:
            worker.report("no more connections", {"error": f"{self._max_connections} clients, two open files for each"})

    def _steps_back(self, clients: int) -> bool:
        now = self._worker.loop.now
        if clients <= self._stepped_back_with and now < self._is_steady_until:
            return False
        self._stepped_back_with = clients
        self._is_steady_until = now + STEADY_SECONDS
        self._worker.loop.deadlines.set(self, now + STEP_BACK_SECONDS)
        return True

    def _stop_watching(self) -> None:
        if self._is_watching:
            self._worker.loop.unregister(self.listener.fileno())
            self._is_watching = False

    def _learn(self, host: str) -> ClientFacts:
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        is_trusted = any(address in network for network in self._trusted)
        forwarded_port = self._worker.settings.forwarded_port
        port = self._port if forwarded_port is None else forwarded_port
        facts = ClientFacts.of(str(address).encode(), self._local_host, b"%d" % port, is_trusted)
        if len(self._facts) >= MAX_REMEMBERED_ADDRESSES:
            self._facts.clear()
        self._facts[host] = facts
        return facts


def _networks(settings: Settings) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(network, strict=False) for network in settings.trusted_proxies]
