"""Proxy workers of rollbridge, run as the supervisor runs them: an inherited listening socket and a link each."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from benchmarks.support.children import START_SECONDS, NotStarted, in_background, running
from rollbridge.proxy.messages import Hello, Route, Settings, Shutdown, Target, Upstream, encode

MAX_CONNECTIONS = 50_000


@contextlib.contextmanager
def rollbridge_workers(
    argv: Sequence[str],
    workers: int,
    cores: Collection[int],
    directory: Path,
    upstream_port: int,
    *,
    access_log: Path | None = None,
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Start ``workers`` of them behind one port; yields the port and their pids."""
    log = directory / "output.log"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)
        route = Route(1, "r1", targets=(Target("r1", (Upstream("127.0.0.1", upstream_port),)),))
        settings = Settings(max_connections=MAX_CONNECTIONS, access_log=None if access_log is None else str(access_log))
        pids = []
        for index in range(workers):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            with theirs:
                command = [
                    *argv,
                    f"--link-fd={theirs.fileno()}",
                    f"--listen-fd={listener.fileno()}",
                    f"--socket={directory}/worker-{index}.sock",
                    f"--index={index}",
                ]
                fds = (theirs.fileno(), listener.fileno())
                child = stack.enter_context(running(command, cores=cores, log=log, pass_fds=fds))
            ours.sendall(encode(Hello()) + encode(settings) + encode(route))
            _wait_for_ack(ours, log)
            in_background(lambda link=ours: _discard(link))  # type: ignore[misc]  # mypy infers no default arguments
            stack.callback(_shut_down, ours)
            pids.append(child.pid)
        yield listener.getsockname()[1], tuple(pids)


def _wait_for_ack(link: socket.socket, log: Path) -> None:
    link.settimeout(START_SECONDS)
    received = b""
    while b'"type":"ack"' not in received:
        data = link.recv(65536)
        if not data:
            raise NotStarted(f"a rollbridge worker ended: {log.read_text(errors='replace')[-2000:]}")
        received += data
    link.settimeout(None)


def _discard(link: socket.socket) -> None:
    """Read what the worker counts and reports, as its supervisor would: to send it belongs to the worker's cost."""
    with contextlib.suppress(OSError):
        while link.recv(65536):
            pass


def _shut_down(link: socket.socket) -> None:
    # Workers ignore signals that a supervisor's terminal may send: they are told.
    with contextlib.suppress(OSError):
        link.sendall(encode(Shutdown()))
    time.sleep(0.05)
