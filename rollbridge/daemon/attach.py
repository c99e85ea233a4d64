"""Reaches the proxy workers that an earlier daemon left: they serve, and they hold the listening socket."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from rollbridge.daemon.recorded import RecordedWorker
from rollbridge.daemon.worker_start import worker_index
from rollbridge.process.identity import ProcessIdentity, held_pidfd, is_alive, read_start_ticks, read_ticks_now
from rollbridge.proxy.messages import MAX_LINE_BYTES, BadMessage, Hello, Welcome, decode, encode

_ANSWER_SECONDS: Final = 2.0  # a living worker answers in microseconds; a stopped one must not hold up the start
_COMING_UP_SECONDS: Final = 10.0  # an interpreter's start takes 0.1 s; many times that on a machine in trouble
_COMING_UP_POLL_SECONDS: Final = 0.02
_UCRED: Final = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


@dataclass(frozen=True, slots=True)
class AttachedWorker:
    """A living worker that has taken us for its supervisor; ``rest`` is what it said after its Welcome."""

    index: int
    identity: ProcessIdentity
    socket_path: str
    link: socket.socket
    generation: int  # of the last route it acknowledged
    active: str | None  # key of the release that this route sends new requests to
    routed: frozenset[str]  # keys of all releases that it knows
    digest: str  # of its code, as recorded; empty when that is not known
    is_retiring: bool
    greeting: bytes  # what it said so far, its Welcome first


@dataclass(frozen=True, slots=True)
class Attachment:
    """All workers that answered, and the listening socket they share; None when none had it to give."""

    workers: tuple[AttachedWorker, ...]
    listener: socket.socket | None


def attach_workers(
    recorded: Sequence[RecordedWorker], boot_id: str, record: Callable[[str, dict[str, object]], None]
) -> Attachment:
    """Greet every recorded worker that lives.

    One that does not answer as expected is killed: it would go on serving by a route that nobody can tell it to
    leave, and it holds the listening socket. One that has just been started is waited for: it may be the only one to
    hold that socket, and with it the clients that wait to be accepted.
    """
    workers: list[AttachedWorker] = []
    listener: socket.socket | None = None
    for one in recorded:
        identity = ProcessIdentity(one.pid, one.start_ticks, boot_id)
        if not is_alive(identity):
            continue
        try:
            worker, passed = _greet_when_up(one, identity)
        except (OSError, BadMessage) as error:
            if is_worker_at(one.pid, one.socket_path):
                record("worker killed: no answer", {"worker": one.index, "pid": one.pid, "error": str(error)})
                _kill(identity)
            continue
        workers.append(worker)
        if listener is None:
            listener = passed
        elif passed is not None:
            passed.close()
    return Attachment(tuple(workers), listener)


def _greet_when_up(one: RecordedWorker, identity: ProcessIdentity) -> tuple[AttachedWorker, socket.socket | None]:
    """Greet a worker, which may be so young that its private socket is not there yet."""
    while True:
        try:
            return _greet(one, identity)
        except (FileNotFoundError, ConnectionRefusedError):
            # Refused: the socket is still that of an earlier worker, which died.
            age_seconds = (read_ticks_now() - identity.start_ticks) / os.sysconf("SC_CLK_TCK")
            if age_seconds >= _COMING_UP_SECONDS or not is_alive(identity):
                raise
        time.sleep(_COMING_UP_POLL_SECONDS)


def is_worker_at(pid: int, socket_path: str) -> bool:
    """Whether ``pid`` was started as the worker of that socket; the state file alone must not get anybody killed."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"--socket=" + os.fsencode(socket_path) in words


def _kill(identity: ProcessIdentity) -> None:
    """Kill a worker and wait until the kernel has taken back what it held, the listening socket first of all."""
    with contextlib.suppress(OSError), held_pidfd(identity) as descriptor:
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(_ANSWER_SECONDS * 1000)


def unrecorded_workers(runtime_dir: str, recorded: Sequence[RecordedWorker]) -> tuple[RecordedWorker, ...]:
    """Return who serves a worker's socket in ``runtime_dir`` without being recorded.

    The earlier daemon may have died between a worker's start and the moment when the state was written.
    """
    known = {(one.socket_path, one.pid, one.start_ticks) for one in recorded}
    found = []
    for path in sorted(Path(runtime_dir).glob("worker-*.sock")):
        index = worker_index(path.name)
        if index is None:
            continue
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock, contextlib.suppress(OSError):
            knock.settimeout(_ANSWER_SECONDS)
            knock.connect(str(path))
            pid = _peer_pid(knock)
            start_ticks = read_start_ticks(pid)
            if start_ticks is not None and (str(path), pid, start_ticks) not in known:
                found.append(RecordedWorker(index, pid, start_ticks, str(path)))
    return tuple(found)


def has_worker(runtime_dir: str) -> bool:
    """Whether some proxy worker of this runtime directory runs, reachable or not."""
    mark = f"--socket={runtime_dir}/worker-"
    return any(
        word.startswith(mark)
        for process in psutil.process_iter(["cmdline"])
        for word in process.info["cmdline"] or ()  # None for a process whose command line is not ours to read
    )


def _peer_pid(connected: socket.socket) -> int:
    pid, _, _ = _UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(pid)


def _greet(one: RecordedWorker, identity: ProcessIdentity) -> tuple[AttachedWorker, socket.socket | None]:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.settimeout(_ANSWER_SECONDS)
        link.connect(one.socket_path)
        pid = _peer_pid(link)
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
    worker = AttachedWorker(
        index=one.index,
        identity=identity,
        socket_path=one.socket_path,
        link=link,
        generation=welcome.generation,
        active=welcome.active,
        routed=frozenset(welcome.counts.releases),
        digest=one.digest,
        is_retiring=one.is_retiring or welcome.is_retiring,
        greeting=data,
    )
    return worker, passed
