"""The worker's event loop: one epoll, one handler per descriptor, coarse deadlines, nothing else."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from typing import Final, TypeAlias

from rollbridge.proxy.timers import NEVER, Deadlines

Handler: TypeAlias = Callable[[int], None]  # called with the epoll event mask

# One turn handles so many descriptors at most; more only makes the clock of a turn older.
_MAX_EVENTS: Final = 256


class Loop:
    """Level-triggered epoll with handlers kept in a dict by descriptor.

    Sockets are closed at the end of a turn, so that no descriptor number is used anew while events of its former
    owner may still be waiting in the same turn.
    """

    def __init__(self, on_defect: Callable[[object, Exception], None]) -> None:
        self.now = time.monotonic()  # of the current turn
        self.handlers: dict[int, Handler] = {}
        self.deadlines = Deadlines()
        self.epoll = select.epoll()
        self.is_stopped = False
        self._on_defect = on_defect
        self._closing: list[socket.socket] = []
        self._after_turn: list[Callable[[], None]] = []

    def register(self, fd: int, mask: int, handler: Handler) -> None:
        self.epoll.register(fd, mask)
        self.handlers[fd] = handler

    def unregister(self, fd: int) -> None:
        if self.handlers.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def close(self, sock: socket.socket) -> None:
        """Close ``sock`` (already unregistered) when this turn is over."""
        self._closing.append(sock)

    def after_turn(self, act: Callable[[], None]) -> None:
        """Call ``act`` once, when the events of this turn are handled."""
        self._after_turn.append(act)

    def run(self) -> None:
        """Turn until ``is_stopped``."""
        poll = self.epoll.poll
        get_handler = self.handlers.get
        deadlines = self.deadlines
        monotonic = time.monotonic
        while not self.is_stopped:
            due = deadlines.next_due
            if self._after_turn or self._closing:
                timeout = 0.0
            else:
                timeout = -1.0 if due == NEVER else max(0.0, due - monotonic())
            events = poll(timeout, _MAX_EVENTS)
            self.now = monotonic()
            for fd, mask in events:
                handler = get_handler(fd)
                if handler is not None:
                    try:
                        handler(mask)
                    except Exception as error:
                        self._defect(getattr(handler, "__self__", None), error)
            if self.now >= deadlines.next_due:
                self._expire()
            if self._after_turn:
                self._act()
            if self._closing:
                self._close_all()

    def _expire(self) -> None:
        for item in self.deadlines.take_due(self.now):
            if item.deadline != NEVER:
                continue  # one that expired before it in this turn has given it more time: an answer is on its way
            try:
                item.expired()
            except Exception as error:
                self._defect(item, error)

    def _act(self) -> None:
        acts, self._after_turn = self._after_turn, []
        for act in acts:
            try:
                act()
            except Exception as error:
                self._defect(getattr(act, "__self__", None), error)

    def _close_all(self) -> None:
        closing, self._closing = self._closing, []
        for sock in closing:
            sock.close()

    def _defect(self, owner: object, error: Exception) -> None:
        """An exception that nobody expected ends what it happened to, and nothing else."""
        abort = getattr(owner, "abort", None)
        try:
            if abort is not None:
                abort()
        except Exception as second:
            second.__context__ = error
            error = second
        self._on_defect(owner, error)
