"""The control socket's server: many clients, bounded in every direction, none able to hold up another.

A handler runs in a task of the server's, not of its client's: a client that leaves never cancels what it asked for.
Only requests that merely watch (``"follow": true``) end when their client is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rollbridge.control.listening import (
    ControlSocketError,
    SocketFile,
    SocketInUse,
    is_as_wanted,
    is_permitted,
    open_socket_file,
    peer_groups,
    peer_of,
    remove_socket_file,
    user_name,
)
from rollbridge.control.protocol import (
    ASKED_WRONGLY,
    FAILED,
    MAX_REQUEST_BYTES,
    REFUSED,
    BadMessage,
    CommandError,
    LineReader,
    LineTooLong,
    Peer,
    decode_request,
    encode,
    is_observing,
)

__all__ = ["ControlServer", "ControlSocketError", "ServerLimits", "SocketInUse"]

Progress = Callable[[Mapping[str, object]], None]
Handler = Callable[[dict[str, object], Progress, Peer], Awaitable[dict[str, object]]]

# So many connections are accepted before those that are there get their turn to be read.
_ACCEPT_BATCH: Final = 16
_SWEEP_SECONDS: Final = 1.0
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_ACCEPT_PAUSE_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What clients may cost. The defaults are far above what an operator and their cron jobs need."""

    request_bytes: int = MAX_REQUEST_BYTES
    idle_seconds: float = 30.0  # without a complete request
    clients: int = 128
    unread_bytes: int = 4 * 1024 * 1024  # progress a client has not read; beyond it the client is dropped


class ControlServer:
    """Listens on ``path`` and calls ``handler`` for every request of a permitted client."""

    def __init__(
        self,
        path: str,
        mode: int,
        owner: str | None,
        group: str | None,
        handler: Handler,
        limits: ServerLimits | None = None,
    ) -> None:
        self._path = path
        self._mode = mode
        self._owner = owner
        self._group = group
        self.handler = handler
        self.limits = limits or ServerLimits()
        self.is_closing = False
        self._file: SocketFile | None = None
        self._clients: dict[_Client, None] = {}  # in the order in which they came
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeping: asyncio.TimerHandle | None = None

    async def start(self, inherited: SocketFile | None = None) -> None:
        """Appear at the path and serve; raises SocketInUse or ControlSocketError (both OSError).

        ``inherited`` is the socket that the code before us listened on: who waits in its queue is served, unless the
        config wants another.
        """
        self._loop = asyncio.get_running_loop()
        self._daemon_uid = os.geteuid()
        self._file = self._take(inherited)
        self._loop.add_reader(self._file.listener, self._accept)
        self._sweep()

    def _take(self, inherited: SocketFile | None) -> SocketFile:
        if inherited is None:
            return open_socket_file(self._path, self._mode, self._owner, self._group)
        if is_as_wanted(inherited, self._path, self._mode, self._owner, self._group):
            return inherited
        remove_socket_file(inherited)
        inherited.listener.close()
        return open_socket_file(self._path, self._mode, self._owner, self._group)

    @property
    def file(self) -> SocketFile | None:
        """What it listens on; None before the start and after the end."""
        return self._file

    def dismiss(self, answer: Callable[[Mapping[str, object]], Mapping[str, object]]) -> None:
        """Give every client but the one we work for now its final ``answer``, at once: this program ends here.

        Also one whose request has not been read, perhaps not even been made: it finds the answer when it is.
        """
        own = asyncio.current_task()
        for client in self._clients:
            if client.task is None or client.task is not own:
                client.send(answer(client.request or {}))

    def descriptor_of(self, task: asyncio.Task[Any] | None) -> int | None:
        """Return the connection of the client whose request ``task`` handles; None when that client has gone."""
        return next((client.descriptor for client in self._clients if client.task is task), None)

    def stop_listening(self) -> None:
        """Disappear from the path; clients that are connected stay and get their answers."""
        self.is_closing = True
        if self._file is not None:
            self._loop.remove_reader(self._file.listener)
            remove_socket_file(self._file)
            self._file.listener.close()
            self._file = None

    async def close(self, grace: float) -> None:
        """Disappear, answer what is in flight, then close every connection.

        Whoever watches is told to stop; other requests get ``grace`` seconds to end, then an error. Clients
        that ask for nothing, or do not read their answers, are not waited for longer than that.
        """
        self.stop_listening()
        if self._sweeping is not None:
            self._sweeping.cancel()
        deadline = self._loop.time() + grace
        for client in list(self._clients):
            client.end_observing()
        own = asyncio.current_task()
        running = {client.task for client in self._clients if client.task is not None} - {own}
        if running:
            _, late = await asyncio.wait(running, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        for client in list(self._clients):
            client.close()
        gone = [client.gone for client in self._clients]
        if gone:
            await asyncio.wait(gone, timeout=max(deadline - self._loop.time(), 0.1))
        for client in list(self._clients):
            client.abort()

    def keep(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run ``coroutine`` in a task that lives as long as it needs, whoever asked for it."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Who comes

    def _accept(self) -> None:
        file = self._file
        for _ in range(_ACCEPT_BATCH):
            if file is None:
                return
            try:
                connection, _ = file.listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                self._pause_accepting(file.listener)
                return
            self._welcome(connection, file)

    def _pause_accepting(self, listener: socket.socket) -> None:
        """Out of descriptors: leave those who just came a moment to say what they want, then try again."""
        self._loop.remove_reader(listener)
        self._loop.call_later(_ACCEPT_PAUSE_SECONDS, self._resume_accepting, listener)

    def _resume_accepting(self, listener: socket.socket) -> None:
        if self._file is not None and self._file.listener is listener:
            if _is_readable(listener):  # somebody waits still: an idle client gives its descriptor back
                self._evict()
            self._loop.add_reader(listener, self._accept)

    def _welcome(self, connection: socket.socket, file: SocketFile) -> None:
        connection.setblocking(False)
        try:
            peer = peer_of(connection)
            is_welcome = is_permitted(peer, peer_groups(connection), file, self._daemon_uid)
        except OSError:  # gone before it was looked at
            connection.close()
            return
        if not is_welcome:
            _turn_away(connection, f"user {user_name(peer.uid)} may not use control socket {self._path}")
            return
        if len(self._clients) >= self.limits.clients and not self._evict():
            _turn_away(connection, f"the daemon has {len(self._clients)} requests to answer, try again later")
            return
        client = _Client(self, peer)
        self._clients[client] = None
        self.keep(self._connect(client, connection))

    async def _connect(self, client: _Client, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: client, connection)
        except OSError:
            connection.close()
            self.forget(client)

    def _evict(self) -> bool:
        """Close the client that is idle for longest, or else the one that watches for longest."""
        for is_expendable in (_Client.is_idle, _Client.is_watching):
            for client in self._clients:
                if is_expendable(client):
                    client.abort()
                    return True
        return False

    def forget(self, client: _Client) -> None:
        self._clients.pop(client, None)

    def _sweep(self) -> None:
        now = self._loop.time()
        for client in list(self._clients):
            client.check(now)
        self._reappear()
        self._sweeping = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _reappear(self) -> None:
        """Be at the path again when somebody has deleted the socket; what else is there by now is left alone.

        The default path is in /tmp, which operators and cron jobs clean: a daemon that cannot be reached could only be
        killed.
        """
        if self._file is None or os.path.lexists(self._path):
            return
        try:
            fresh = open_socket_file(self._path, self._mode, self._owner, self._group)
        except ControlSocketError:
            return  # its directory is gone as well, say; the next sweep tries again
        former, self._file = self._file, fresh
        self._loop.remove_reader(former.listener)
        former.listener.close()
        self._loop.add_reader(fresh.listener, self._accept)


class _Client(asyncio.Protocol):
    """One connection: reads requests one after the other, each answered before the next is begun."""

    def __init__(self, server: ControlServer, peer: Peer) -> None:
        self._server = server
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._lines = LineReader(server.limits.request_bytes)
        self._transport: asyncio.Transport | None = None
        self._is_eof = False
        self._is_over = False  # nothing more is read from it: over the limit, or closing
        self._is_observing = False
        self._last_active = self._loop.time()
        self.task: asyncio.Task[None] | None = None
        self.request: dict[str, object] | None = None  # that ``task`` works on
        self.gone: asyncio.Future[None] = self._loop.create_future()

    def is_idle(self) -> bool:
        return self.task is None

    def is_watching(self) -> bool:
        return self._is_observing

    @property
    def descriptor(self) -> int | None:
        """Of the connection; None when it is gone."""
        if self._transport is None:
            return None
        descriptor: int = self._transport.get_extra_info("socket").fileno()
        return descriptor

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self.gone.done() or self._server.is_closing:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._leave()
        self.end_observing()

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        self._lines.feed(data)
        self._next_request()

    def eof_received(self) -> bool:
        # The client has said all it will say, but may well wait for its answer.
        self._is_eof = True
        self.check(self._loop.time())
        return self.task is not None

    # Requests

    def _next_request(self) -> None:
        """Begin the next request when its line is complete and the one before it is answered."""
        while self.task is None and not self._is_over:
            try:
                line = self._lines.next_line()
                if line is None:
                    break
                self._last_active = self._loop.time()
                request = decode_request(line)
            except LineTooLong as error:
                # Read on and throw away: closing now would take the answer away from a client that still sends.
                self._is_over = True
                self.send(CommandError(f"request refused: {error}", ASKED_WRONGLY).answer())
            except BadMessage as error:
                self.send(CommandError(f"request not understood: {error}", ASKED_WRONGLY).answer())
            else:
                self._is_observing = is_observing(request)
                self.request = request
                self.task = self._server.keep(self._handle(request))
        self._read_on()

    def _read_on(self) -> None:
        """Read no further while a request is worked on and another waits behind it; end after the last one."""
        if self._transport is None:
            return
        if self._is_eof:
            if self.task is None:
                self.close()
        elif self.task is not None and not self._lines.is_empty:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    async def _handle(self, request: dict[str, object]) -> None:
        try:
            answer = await self._answer(request)
        finally:
            self.task = self.request = None
            self._is_observing = False
            self._last_active = self._loop.time()
        self.send(answer)
        if not self._server.is_closing:
            self._next_request()

    async def _answer(self, request: dict[str, object]) -> dict[str, object]:
        try:
            return await self._server.handler(request, self._progress, self._peer)
        except CommandError as error:
            return error.answer()
        except asyncio.CancelledError:
            return CommandError("the daemon is shutting down", REFUSED).answer()
        except Exception as error:
            # A defect of ours must not leave the client without an answer, nor the operator without its trace.
            self._loop.call_exception_handler(
                {"message": f"control command {request['command']!r} failed", "exception": error, "task": self.task}
            )
            return CommandError(f"internal error: {type(error).__name__}: {error}", FAILED).answer()

    def _progress(self, report: Mapping[str, object]) -> None:
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size() > self._server.limits.unread_bytes:
            self.abort()  # it does not read; what it asked for goes on without it
            return
        transport.write(encode({"progress": report}))

    def send(self, answer: Mapping[str, object]) -> None:
        if self._transport is not None:
            self._transport.write(encode(answer))

    # The end

    def end_observing(self) -> None:
        if self._is_observing and self.task is not None:
            self.task.cancel()

    def check(self, now: float) -> None:
        """End what nobody waits for: an idle connection, or a watch whose client is gone."""
        if self._transport is None:
            return
        if self._is_observing:
            if self._has_hung_up():
                self.abort()
        elif self.task is None and now - self._last_active > self._server.limits.idle_seconds:
            self.abort()

    def _has_hung_up(self) -> bool:
        """Whether both directions are closed; a client that only ends its own may still listen."""
        assert self._transport is not None
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        return any(flags & (select.POLLHUP | select.POLLERR) for _, flags in poll.poll(0))

    def close(self) -> None:
        """Close when everything written has been read."""
        self._is_over = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now, whatever has not been read."""
        self._is_over = True
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._leave()

    def _leave(self) -> None:
        self._server.forget(self)
        if not self.gone.done():
            self.gone.set_result(None)


def _is_readable(listener: socket.socket) -> bool:
    # accept() itself cannot tell: without a descriptor to spare it fails though nobody waits.
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


def _turn_away(connection: socket.socket, why: str) -> None:
    """Answer with an error that fits into any socket buffer, and close."""
    with connection, contextlib.suppress(OSError):
        connection.send(encode(CommandError(why, REFUSED).answer()), socket.MSG_NOSIGNAL)
