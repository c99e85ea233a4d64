"""Large bodies go from socket to pipe to socket: the kernel passes its pages on, no byte is copied into Python."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rollbridge.proxy.timers import NEVER

if TYPE_CHECKING:
    from rollbridge.proxy.framing import LengthReader
    from rollbridge.proxy.loop import Loop
    from rollbridge.proxy.stream import Stream

# What is left of a body from which on a pipe is worth it. Two calls take the place of two, and a pipe's pages those of
# a buffer, so that there is little to win on small ones: microseconds of CPU per response, copied and spliced, from an
# nginx on the same machine: 64 KiB 62 and 61, 128 KiB 77 and 70, 256 KiB 114 and 74, 1 MiB 557 and 239.
SPLICE_BYTES: Final = 64 * 1024
# What a pipe is asked to hold, and so what a client that does not read keeps in the kernel at most. 1 MiB took 432
# microseconds through pipes of 64 KiB (the kernel's default), 317 at 128, 254 at 256, 219 at 512, 214 at 1024.
PIPE_BYTES: Final = 256 * 1024
# A pipe is held only while a peer is slow to take what is in it. Two descriptors each, and the kernel gives a user 64
# MiB of pipes before it makes them small: whoever comes when all are held is served by copying.
MAX_PIPES: Final = 128
# Pipes that nobody has needed for so long are closed.
IDLE_SECONDS: Final = 2.0
_REFUSALS: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})


class Pipe:
    """Two descriptors, neither of which blocks."""

    __slots__ = ("read_fd", "write_fd")

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # more pipes than the kernel likes: it stays as small as it is
            fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)


class Pipes:
    """All pipes of a worker. An empty one is used again by whoever comes next."""

    def __init__(self, loop: Loop, limit: int = MAX_PIPES) -> None:
        self.is_usable = hasattr(os, "splice")  # until the kernel refuses once
        self.deadline = NEVER
        self.queued_for = NEVER
        self._loop = loop
        self._free: list[Pipe] = []
        self._left = limit

    def take(self) -> Pipe | None:
        """An empty pipe; None when all are in use or no more can be made."""
        if self._free:
            return self._free.pop()
        if self._left and self.is_usable:
            with contextlib.suppress(OSError):  # out of descriptors
                pipe = Pipe()
                self._left -= 1
                return pipe
        return None

    def give_back(self, pipe: Pipe, *, is_empty: bool) -> None:
        """A pipe that is not empty is used no more: what it holds would reach somebody else."""
        if is_empty:
            self._free.append(pipe)
            self._loop.deadlines.set(self, self._loop.now + IDLE_SECONDS)
        else:
            self._close(pipe)

    def expired(self) -> None:
        """None of those that are free has been needed lately."""
        while self._free:
            self._close(self._free.pop())

    def _close(self, pipe: Pipe) -> None:
        pipe.close()
        self._left += 1


class Splice:
    """Moves a body of known length from ``source`` to ``sink``, from their next events on.

    ``on_moved`` is called when bytes have left the source: the reader knows how many are still to come, and when the
    sink is full the source is to be read no more until it has drained.
    """

    __slots__ = ("_on_moved", "_pipe", "_pipes", "_reader", "_sink", "_source", "in_pipe")

    def __init__(
        self, pipes: Pipes, source: Stream, sink: Stream, reader: LengthReader, on_moved: Callable[[], None]
    ) -> None:
        self.in_pipe = 0  # bytes that the sink has not taken yet
        self._pipes = pipes
        self._pipe: Pipe | None = None
        self._source = source
        self._sink = sink
        self._reader = reader
        self._on_moved = on_moved
        source.inflow = self
        sink.outflow = self

    def pump(self) -> bool:
        """The source can be read: move what is there. False: it has to be copied this time."""
        source = self._source
        if self.in_pipe:
            source.stop_reading()  # until the sink has taken it
            return True
        if self._sink.out or self._sink.is_write_broken or not self._pipes.is_usable:
            return False
        pipe = self._pipes.take()
        if pipe is None:
            return False
        self._pipe = pipe
        try:
            moved = os.splice(source.fd, pipe.write_fd, min(self._reader.left, PIPE_BYTES))
        except OSError as error:
            self._release()
            if isinstance(error, BlockingIOError):
                return True
            if error.errno in _REFUSALS:
                self._pipes.is_usable = False
                return False
            source.lost()
            return True
        if not moved:
            self._release()
            source.stop_reading()
            source.ended()
            return True
        self.in_pipe = moved
        self._reader.skip(moved)
        if not self.push():
            self._sink.await_room()
        self._on_moved()
        return True

    def end(self) -> None:
        """Part from both; nothing that has left the source is lost."""
        self._source.inflow = None
        self._sink.outflow = None
        self._empty()

    def push(self) -> bool:
        """Let the sink take what is in the pipe; whether that was all."""
        pipe = self._pipe
        if pipe is None:
            return True
        try:
            self.in_pipe -= os.splice(pipe.read_fd, self._sink.fd, self.in_pipe)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _REFUSALS:
                self._pipes.is_usable = False
                self._empty()
                return False
            self._release()
            self._sink.break_writing()
            return True
        if self.in_pipe:
            return False
        self._release()
        return True

    def _empty(self) -> None:
        """Read what is in the pipe; it waits for the sink like anything else."""
        while self.in_pipe and self._pipe is not None:
            data = os.read(self._pipe.read_fd, self.in_pipe)
            self._sink.out += data
            self.in_pipe -= len(data)
        self._release()

    def _release(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            self._pipes.give_back(pipe, is_empty=not self.in_pipe)
            self.in_pipe = 0
