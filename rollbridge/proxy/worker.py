"""The proxy worker: its own process, started by the supervisor, with a listening socket and a link."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import resource
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rollbridge import __version__
from rollbridge.proxy.acceptor import Acceptor
from rollbridge.proxy.access_log import AccessLog
from rollbridge.proxy.client import Client
from rollbridge.proxy.dispatcher import Dispatcher
from rollbridge.proxy.exchange import Exchange
from rollbridge.proxy.head import KnownFields
from rollbridge.proxy.link import MAX_WAITING, Door, Link
from rollbridge.proxy.log_descriptor import log_path, reopen
from rollbridge.proxy.logged import LoggedExchange
from rollbridge.proxy.loop import Loop
from rollbridge.proxy.messages import (
    PROTOCOL,
    Ack,
    Counts,
    Hello,
    Message,
    ReleaseCounts,
    Retire,
    Route,
    Settings,
    Shutdown,
    Welcome,
)
from rollbridge.proxy.remembered import FORGET_SECONDS
from rollbridge.proxy.reports import ReportThrottle
from rollbridge.proxy.response_head import KnownResponses
from rollbridge.proxy.shares import Shares
from rollbridge.proxy.splice import Pipes
from rollbridge.proxy.timers import NEVER
from rollbridge.proxy.tunnel import Tunnel
from rollbridge.proxy.upstream import Release

STDERR: Final = 2
# Counts go out at most so often; a release that drains reports its last request at once.
COUNTS_SECONDS: Final = 0.05
# A worker that no supervisor comes back to ends when nobody has listened behind it for so long, and nothing is in
# flight: its application is gone for good. Cron looks once a minute, so a daemon that is brought back comes before.
ORPHAN_CHECK_SECONDS: Final = 5.0
ORPHAN_SECONDS: Final = 60.0


class Timer:
    """Calls ``act`` when its deadline comes."""

    __slots__ = ("_act", "deadline", "queued_for")

    def __init__(self, act: Callable[[], None]) -> None:
        self.deadline = NEVER
        self.queued_for = NEVER
        self._act = act

    def expired(self) -> None:
        self._act()


class Worker:
    """Everything that one worker holds; orders come in through ``_on_message``."""

    def __init__(self, index: int, listener: socket.socket, link: socket.socket, socket_path: str) -> None:
        self.loop = Loop(self._on_defect)
        self.index = index
        self.settings = Settings()
        self.is_leaving = False  # accepts nothing more, and tells every client so with its next answer
        self.is_retiring = False
        self.requests_total = 0
        self.clients: set[Client] = set()
        self.tunnels: set[Tunnel] = set()
        self.pipes = Pipes(self.loop)
        self.known_requests = KnownFields(self._forget_later)
        self.known_responses = KnownResponses(self._forget_later)
        self.access_log: AccessLog | None = None
        self.exchange_class: type[Exchange] = Exchange
        self.dispatcher = Dispatcher(
            self.loop,
            report=self.report,
            count_changed=self.count_changed,
            totals_changed=self.totals_changed,
            accepted=self._upstream_accepted,
        )
        self._stderr_path = log_path(STDERR)
        self._acceptor = Acceptor(self, listener, Shares(Path(socket_path).parent, index))
        self._reports = ReportThrottle()
        self._counts_timer = Timer(self._publish_counts)
        self._orphan_timer = Timer(self._check_orphan)
        self._drain_timer = Timer(self._stop)
        self._forget_timer = Timer(self._forget)
        self._accepted_at = self.loop.now
        self._knocking: set[Link] = set()
        self._link: Link | None = Link(self.loop, link, self._on_message, self._on_link_lost, is_ours=True)
        self._door = Door(self.loop, socket_path, self._on_knock)
        self._date = (0, b"")

    def run(self) -> None:
        """Serve until told to stop."""
        try:
            self.loop.run()
        finally:
            self._door.close()
            if self.access_log is not None:
                self.access_log.close()

    # What the rooms of the worker tell it.

    def count_changed(self, release: Release) -> None:
        """A request or tunnel of ``release`` has begun or ended."""
        if not release.is_active and not release.http and not release.websocket:
            self.dispatcher.forget_if_done(release)
            self.loop.after_turn(self._publish_counts)
        elif self._counts_timer.deadline == NEVER:
            self.totals_changed()

    def totals_changed(self) -> None:
        """A client has come or gone, or a request waits or does so no longer: the supervisor hears of it soon."""
        if self._counts_timer.deadline == NEVER:
            self.loop.deadlines.set(self._counts_timer, self.loop.now + COUNTS_SECONDS)

    def connection_closed(self) -> None:
        """A client or a tunnel has gone: there is room for another."""
        self._acceptor.room_changed()
        self.totals_changed()
        if self.is_leaving:
            self._stop_if_done()

    def report(self, message: str, data: dict[str, object]) -> None:
        """Tell the supervisor, unless it has just been told the same."""
        if self._link is not None:
            report = self._reports.pass_on(message, data, self.loop.now)
            if report is not None:
                self._link.send(report)

    def http_date(self) -> bytes:
        """The Date of an answer of our own."""
        seconds = int(time.time())
        if self._date[0] != seconds:
            self._date = (seconds, time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds)).encode())
        return self._date[1]

    def _forget_later(self) -> None:
        if self._forget_timer.deadline == NEVER:
            self.loop.deadlines.set(self._forget_timer, self.loop.now + FORGET_SECONDS)

    def _forget(self) -> None:
        """Heads that nobody has sent for a while are let go."""
        is_left = [known.age() for known in (self.known_requests, self.known_responses)]
        if any(is_left):
            self._forget_later()

    # The supervisor.

    def _on_message(self, link: Link, message: Message) -> None:
        match message:
            case Hello():
                self._greet(link, message)
            case Settings():
                self.settings = self.dispatcher.settings = message
                self._acceptor.settings_changed(message)
                self._set_access_log(message)
                self._reopen_stderr()
            case Route():
                self.dispatcher.apply(message)
                # Counts first: whoever has the acknowledgement knows what is still in flight on the old release.
                link.send(self._counts())
                link.send(Ack(message.generation))
                self._acceptor.open()
            case Retire():
                self._retire()
            case Shutdown():
                self._drain(message.drain_seconds)
            case _:
                self.report("message refused", {"error": f"a supervisor does not send {type(message).__name__}"})

    def _set_access_log(self, settings: Settings) -> None:
        if self.access_log is not None:
            self.access_log.close()
        path = settings.access_log
        self.access_log = None if path is None else AccessLog(self.loop, path, settings.trusted_proxies, self.report)
        self.exchange_class = Exchange if path is None else LoggedExchange

    def _reopen_stderr(self) -> None:
        """Go on in the file that was ours when we started, by its name: it may have been rotated."""
        if self._stderr_path is not None:
            try:
                reopen(STDERR, self._stderr_path)
            except OSError as error:
                self.report("log not reopened", {"path": self._stderr_path, "error": error.strerror or str(error)})

    def _greet(self, link: Link, hello: Hello) -> None:
        if link is not self._link:
            # The newest supervisor wins.
            self._knocking.discard(link)
            former, self._link = self._link, link
            link.is_ours = True
            if former is not None:
                former.close()
        route = self.dispatcher.route
        welcome = Welcome(
            PROTOCOL,
            os.getpid(),
            self.index,
            route.generation,
            self._counts(),
            __version__,
            route.active,
            self.is_retiring,
        )
        if hello.want_listener and self._acceptor.has_listener:
            link.send_with_listener(welcome, self._acceptor.listener)
        else:
            link.send(welcome)

    def _on_knock(self, sock: socket.socket) -> None:
        if len(self._knocking) >= MAX_WAITING:
            sock.close()
            return
        self._knocking.add(Link(self.loop, sock, self._on_message, self._on_link_lost, is_ours=False))

    def _on_link_lost(self, link: Link) -> None:
        self._knocking.discard(link)
        if link is self._link:
            self._link = None
            self._accepted_at = self.loop.now
            self.loop.deadlines.set(self._orphan_timer, self.loop.now + ORPHAN_CHECK_SECONDS)

    def _upstream_accepted(self) -> None:
        self._accepted_at = self.loop.now

    def _check_orphan(self) -> None:
        if self._link is not None:
            return
        # A tunnel to a release that drains is a user too; it ends when its process does.
        is_busy = any(release.http or release.websocket for release in self.dispatcher.releases.values())
        if self.loop.now - self._accepted_at >= ORPHAN_SECONDS and not is_busy:
            self._stop()
            return
        self.dispatcher.probe()
        self.loop.deadlines.set(self._orphan_timer, self.loop.now + ORPHAN_CHECK_SECONDS)

    def _counts(self) -> Counts:
        releases = self.dispatcher.releases.values()
        return Counts(
            {release.key: ReleaseCounts(release.http, release.websocket) for release in releases},
            clients=len(self.clients) + len(self.tunnels),
            requests_total=self.requests_total,
            held=self.dispatcher.held,
        )

    def _publish_counts(self) -> None:
        self._counts_timer.deadline = NEVER
        if self._link is None:
            return
        if self._link.is_congested:
            self.loop.deadlines.set(self._counts_timer, self.loop.now + COUNTS_SECONDS)
        else:
            self._link.send(self._counts())

    # The end.

    def _drain(self, drain_seconds: float) -> None:
        """Accept nothing more, finish what there is within ``drain_seconds``, stop."""
        self.is_leaving = True
        self._acceptor.close()
        self.loop.deadlines.set(self._drain_timer, min(self._drain_timer.deadline, self.loop.now + drain_seconds))
        # Requests that have arrived in this very turn are read first.
        self.loop.after_turn(self._close_idle_clients)

    def _retire(self) -> None:
        """Accept nothing more, serve what there is for as long as it takes, stop."""
        self.is_leaving = self.is_retiring = True
        self._acceptor.let_go()
        self.loop.after_turn(self._stop_if_done)

    def _close_idle_clients(self) -> None:
        for client in list(self.clients):
            client.close_if_idle()
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        if not self.clients and not self.tunnels:
            self._stop()

    def _stop(self) -> None:
        self.loop.is_stopped = True

    def _on_defect(self, owner: object, error: Exception) -> None:
        """An exception that is our defect; its connection is gone, the worker goes on."""
        text = "".join(traceback.format_exception(error))[-4000:]
        self.report("defect in the proxy", {"where": type(owner).__name__, "traceback": text})


def main(argv: Sequence[str]) -> int:
    """Run a worker; ``argv`` is what follows the hidden command's name."""
    parser = argparse.ArgumentParser(prog="rollbridge _proxy-worker")
    parser.add_argument("--link-fd", type=int, required=True)
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--index", type=int, required=True)
    options = parser.parse_args(argv)
    # The supervisor ends a worker through the link, or by SIGKILL. A Ctrl-C meant for the supervisor reaches the whole
    # foreground group, and must not cut requests that it wants to finish.
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    with contextlib.suppress(ValueError, OSError):  # a hard limit that may not be used is one to live below
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    link = socket.socket(fileno=options.link_fd)
    listener = socket.socket(fileno=options.listen_fd)
    for sock in (link, listener):
        sock.setblocking(False)
        sock.set_inheritable(False)
    worker = Worker(options.index, listener, link, options.socket)
    gc.collect()
    gc.freeze()
    worker.run()
    return 0
