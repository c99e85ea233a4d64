"""The link to the supervisor: lines in, lines out, and the door through which a new supervisor comes."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rollbridge.proxy.loop import Loop
from rollbridge.proxy.messages import MAX_LINE_BYTES, BadMessage, Hello, Message, Report, Welcome, decode, encode
from rollbridge.proxy.stream import READ, Stream
from rollbridge.proxy.timers import NEVER

# A supervisor that does not read is told less: counts are sent when it has read, reports are dropped.
MAX_UNSENT_BYTES: Final = 256 * 1024
# Strangers (of our own user) that connect to the private socket and say nothing.
MAX_WAITING: Final = 8
HELLO_SECONDS: Final = 10.0
# Out of descriptors: looked at again after so long.
PAUSE_SECONDS: Final = 0.1

_UCRED: Final = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class Link(Stream):
    """One connection to a supervisor, or to somebody who may become it by saying Hello."""

    __slots__ = ("_buffer", "_on_lost", "_on_message", "is_ours")

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_message: Callable[[Link, Message], None],
        on_lost: Callable[[Link], None],
        *,
        is_ours: bool,
    ) -> None:
        super().__init__(loop, sock, READ)
        self.is_ours = is_ours  # it is the supervisor: its orders count
        self._buffer = bytearray()
        self._on_message = on_message
        self._on_lost = on_lost
        if not is_ours:
            loop.deadlines.set(self, loop.now + HELLO_SECONDS)

    @property
    def is_congested(self) -> bool:
        return bool(self.out)

    def send(self, message: Message) -> None:
        if isinstance(message, Report) and len(self.out) > MAX_UNSENT_BYTES:
            return
        self.write(encode(message))

    def send_with_listener(self, message: Welcome, listener: socket.socket) -> None:
        """Send ``message`` and a duplicate of the listening socket."""
        data = encode(message)
        if self.out:
            self.lost()  # it asks again before it has read our answers: no supervisor of ours does
            return
        try:
            sent = socket.send_fds(self.sock, [data], [listener.fileno()])
        except OSError:
            self.lost()
            return
        self.write(data[sent:])

    def received(self, data: bytes) -> None:
        self._buffer += data
        while self.is_open:
            end = self._buffer.find(b"\n")
            if end < 0:
                break
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            try:
                message = decode(line)
            except BadMessage as error:
                self.send(Report("message refused", {"error": str(error)}))
                continue
            if self.is_ours or isinstance(message, Hello):
                self._on_message(self, message)
            else:
                self.lost()
        if len(self._buffer) > MAX_LINE_BYTES:
            self.lost()

    def ended(self) -> None:
        self.lost()

    def lost(self) -> None:
        if self.is_open:
            self.close()
            self._on_lost(self)

    def drained(self) -> None:
        """Nothing waits for it: counts are published when they change next, or by their timer."""

    def write_failed(self) -> None:
        self.loop.after_turn(self.lost)

    def broken_while_not_read(self) -> None:
        self.lost()

    def expired(self) -> None:
        if not self.is_ours:
            self.lost()

    def abort(self) -> None:
        self.lost()


class Door:
    """The worker's private Unix socket. Who may come in: root and the worker's own user.

    A descriptor is kept for whoever comes when there is none left: it may be the supervisor that has to do something
    about it.
    """

    def __init__(self, loop: Loop, path: str, on_knock: Callable[[socket.socket], None]) -> None:
        self.deadline = NEVER
        self.queued_for = NEVER
        self._loop = loop
        self._on_knock = on_knock
        self._spare = os.open("/", os.O_PATH | os.O_CLOEXEC)
        self._path = Path(path)
        temporary = f"{path}.{os.getpid()}"
        Path(temporary).unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        mask = os.umask(0o177)
        try:
            self._socket.bind(temporary)
        finally:
            os.umask(mask)
        self._socket.listen(128)  # of those that have not been looked at; a full queue would refuse a supervisor
        # Renamed into place: at no time is there a socket of that name that nobody serves.
        Path(temporary).rename(self._path)
        self._inode = self._path.stat().st_ino
        loop.register(self._socket.fileno(), READ, self._on_event)

    def _on_event(self, _mask: int) -> None:
        try:
            sock, _address = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:
            if self._spare >= 0:
                os.close(self._spare)
                self._spare = -1  # and once more with this turn's end: there is somebody still
            else:
                self._loop.unregister(self._socket.fileno())
                self._loop.deadlines.set(self, self._loop.now + PAUSE_SECONDS)
            return
        if self._spare < 0:
            self._keep_spare()
        _pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in (0, os.geteuid()):
            sock.close()
            return
        sock.setblocking(False)
        self._on_knock(sock)

    def _keep_spare(self) -> None:
        with contextlib.suppress(OSError):  # not yet
            self._spare = os.open("/", os.O_PATH | os.O_CLOEXEC)

    def expired(self) -> None:
        """Somebody stood at the door, and there was no descriptor left."""
        self._keep_spare()
        self._loop.register(self._socket.fileno(), READ, self._on_event)

    def close(self) -> None:
        self._loop.unregister(self._socket.fileno())
        self._loop.deadlines.forget(self)
        self._socket.close()
        if self._spare >= 0:
            os.close(self._spare)
        # Another worker may serve there by now.
        if self._path.exists() and self._path.stat().st_ino == self._inode:
            self._path.unlink(missing_ok=True)
