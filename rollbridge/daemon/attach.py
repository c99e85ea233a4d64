"""Reaches the proxy workers that an earlier daemon left: they serve, and they hold the listening socket."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rollbridge.daemon.recorded import RecordedWorker
from rollbridge.process.identity import ProcessIdentity, is_alive
from rollbridge.proxy.messages import MAX_LINE_BYTES, BadMessage, Hello, Welcome, decode, encode

_ANSWER_SECONDS: Final = 2.0  # a living worker answers in microseconds; a stopped one must not hold up the start
_UCRED: Final = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


@dataclass(frozen=True, slots=True)
class AttachedWorker:
    """A living worker that has taken us for its supervisor; ``rest`` is what it said after its Welcome."""

    index: int
    identity: ProcessIdentity
    socket_path: str
    link: socket.socket
    generation: int  # of the last route it acknowledged
    greeting: bytes  # what it said so far, its Welcome first


@dataclass(frozen=True, slots=True)
class Attachment:
    """All workers that answered, and the listening socket they share; None when none had it to give."""

    workers: tuple[AttachedWorker, ...]
    listener: socket.socket | None


def attach_workers(
    recorded: Sequence[RecordedWorker], boot_id: str, record: Callable[[str, dict[str, object]], None]
) -> Attachment:
    """Greet every recorded worker that lives; one that does not answer as expected is reported and left alone."""
    workers: list[AttachedWorker] = []
    listener: socket.socket | None = None
    for one in recorded:
        identity = ProcessIdentity(one.pid, one.start_ticks, boot_id)
        if not is_alive(identity):
            continue
        try:
            worker, passed = _greet(one, identity)
        except (OSError, BadMessage) as error:
            record("worker not attached", {"worker": one.index, "pid": one.pid, "error": str(error)})
            continue
        workers.append(worker)
        if listener is None:
            listener = passed
        elif passed is not None:
            passed.close()
    return Attachment(tuple(workers), listener)


def _greet(one: RecordedWorker, identity: ProcessIdentity) -> tuple[AttachedWorker, socket.socket | None]:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.settimeout(_ANSWER_SECONDS)
        link.connect(one.socket_path)
        credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, _, _ = _UCRED.unpack(credentials)
        if pid != one.pid:
            raise BadMessage(f"{one.socket_path} is served by pid {pid}, not by the worker")
        link.sendall(encode(Hello(want_listener=True)))
        data, passed = b"", None
        while b"\n" not in data:
            chunk, descriptors, _, _ = socket.recv_fds(link, MAX_LINE_BYTES, 1)
            if not chunk:
                raise BadMessage("it closed the connection without a welcome")
            data += chunk
            for descriptor in descriptors:
                passed = socket.socket(fileno=descriptor)
                passed.setblocking(False)
    except BaseException:
        link.close()
        raise
    welcome = decode(data.partition(b"\n")[0])
    if not isinstance(welcome, Welcome):
        link.close()
        raise BadMessage(f"it greeted with {type(welcome).__name__}")
    link.setblocking(False)
    return AttachedWorker(one.index, identity, one.socket_path, link, welcome.generation, data), passed
