"""One connected socket on the loop, with the bytes that it could not send yet."""

from __future__ import annotations

import select
import socket
import struct
from typing import TYPE_CHECKING, Final

from rollbridge.proxy.loop import Loop
from rollbridge.proxy.timers import NEVER

if TYPE_CHECKING:
    from rollbridge.proxy.splice import Splice

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
BROKEN: Final = select.EPOLLERR | select.EPOLLHUP

# One read: a body of 64 KiB along with its head. Microseconds of CPU for such a response and such a POST, on a machine
# where nginx takes 84 and 96: 68 and 111 with reads of 64 KiB, 61 and 98 with these. Just below 128 KiB, as from there
# on malloc asks the kernel for each buffer anew, also for those that in the end hold 100 bytes.
READ_BYTES: Final = 127 * 1024
# Unsent bytes towards one side at which the other side is no longer read, and at which it is read again. With one more
# read on top they are all that a connection keeps; the kernel's own buffers are what keeps a fast connection busy.
HIGH_WATER: Final = 64 * 1024
LOW_WATER: Final = 16 * 1024
# A client or tunnel end that takes nothing of what waits for it for so long has gone, or means harm. Long enough for
# a download that a person has paused.
WRITE_STALL_SECONDS: Final = 300.0

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Stream:
    """Reads when wanted, sends at once when possible and else when the socket has room again.

    A subclass says what happens with what the peer sends.
    """

    __slots__ = (
        "_is_parked",
        "_mask",
        "deadline",
        "fd",
        "inflow",
        "is_open",
        "is_write_broken",
        "loop",
        "out",
        "outflow",
        "queued_for",
        "sock",
    )

    def __init__(self, loop: Loop, sock: socket.socket, mask: int) -> None:
        self.loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self.out = bytearray()
        self.inflow: Splice | None = None  # takes what arrives, past received()
        self.outflow: Splice | None = None  # brings what goes out, when nothing is in ``out``
        self.is_open = True
        self.is_write_broken = False  # the peer takes no more; what it has sent can still be read
        self.deadline = NEVER
        self.queued_for = NEVER
        self._mask = mask
        self._is_parked = False
        loop.register(self.fd, mask, self.on_event)

    # What a subclass does.

    def received(self, data: bytes) -> None:
        """Bytes have arrived."""
        raise NotImplementedError

    def ended(self) -> None:
        """The peer has sent all it will; called once."""
        raise NotImplementedError

    def lost(self) -> None:
        """The connection is gone, in both directions."""
        raise NotImplementedError

    def drained(self) -> None:
        """The unsent bytes have gone below LOW_WATER (possibly to none)."""
        raise NotImplementedError

    def expired(self) -> None:
        """The deadline has passed."""
        raise NotImplementedError

    def abort(self) -> None:
        """End it and all that hangs on it: an exception has left it in an unknown state."""
        raise NotImplementedError

    # What it can do.

    def on_event(self, mask: int) -> None:
        if mask != READ:
            if mask & BROKEN and not self._mask & READ:
                self.broken_while_not_read()
                return
            if mask & WRITE:
                self.flush()
                if not self.is_open:
                    return
            if not mask & (READ | BROKEN):
                return
        if self.inflow is not None and self.inflow.pump():
            return
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.lost()
            return
        if data:
            self.received(data)
        else:
            self.stop_reading()
            self.ended()

    def write(self, data: bytes | memoryview) -> None:
        """Send ``data``, keep what the socket does not take."""
        if self.out:
            self.out += data
            return
        if self.is_write_broken:
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.break_writing()
            return
        if sent != len(data):
            self.out += memoryview(data)[sent:]
            self.await_room()

    def await_room(self) -> None:
        """Something could not be sent yet."""
        self.want(self._mask | WRITE)
        self.write_blocked()

    def write_blocked(self) -> None:
        """The socket is full, or has taken a part: from now on it has to make progress."""

    def write_failed(self) -> None:
        """The peer takes no more. Called in the middle of whatever wrote: act later."""

    def flush(self) -> None:
        """Send what is waiting, as far as the socket takes it."""
        out = self.out
        if out:
            try:
                sent = self.sock.send(out)
            except BlockingIOError:
                return
            except OSError:
                self.break_writing()
                return
            del out[:sent]
        elif self.outflow is not None and not self.outflow.push():
            self.write_blocked()
            return
        if out:
            self.write_blocked()
        else:
            self.want(self._mask & ~WRITE)
        if not out or (len(out) <= LOW_WATER and self.outflow is None):  # before a splice all has to be out
            self.drained()

    @property
    def is_full(self) -> bool:
        """Whether it takes so little that the other side should wait."""
        return len(self.out) > HIGH_WATER or (self.outflow is not None and self.outflow.in_pipe != 0)

    @property
    def has_unsent(self) -> bool:
        return bool(self.out) or (self.outflow is not None and self.outflow.in_pipe != 0)

    def stop_reading(self) -> None:
        if self._mask & READ:
            self.want(self._mask & ~READ)

    def resume_reading(self) -> None:
        if not self._mask & READ and self.is_open:
            self.want(self._mask | READ)

    @property
    def is_reading(self) -> bool:
        return bool(self._mask & READ)

    def want(self, mask: int) -> None:
        """Change what the loop watches for."""
        if self._is_parked:
            self._mask = mask
            if mask & READ:
                self._is_parked = False
                self.loop.register(self.fd, mask, self.on_event)
        elif mask != self._mask:
            self._mask = mask
            self.loop.epoll.modify(self.fd, mask)

    def close(self, *, reset: bool = False) -> None:
        """Close it; with ``reset`` so that the peer cannot take what it has for all there is."""
        if not self.is_open:
            return
        self.is_open = False
        self.loop.deadlines.forget(self)
        self.loop.unregister(self.fd)
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.loop.close(self.sock)

    def detach(self) -> socket.socket:
        """Give the open socket away; unsent bytes are the caller's to take along."""
        self.is_open = False
        self.loop.deadlines.forget(self)
        self.loop.unregister(self.fd)
        return self.sock

    def shut_writing(self) -> None:
        """Tell the peer that nothing more comes."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.is_write_broken = True  # it has closed already; nothing is left to tell

    def break_writing(self) -> None:
        """A write has failed for good."""
        # The peer may have said why before it closed: what it has sent is still read, and its end is noticed there.
        self.is_write_broken = True
        self.out.clear()
        self.want(self._mask & ~WRITE)
        self.write_failed()

    def broken_while_not_read(self) -> None:
        """The connection broke while nobody wants to read it; such an event cannot be switched off.

        What it means becomes known when it is read again; until then the loop does not watch it.
        """
        self._is_parked = True
        self.loop.unregister(self.fd)
