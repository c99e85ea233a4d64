"""Processes that a benchmark starts: pinned to cores, in a session of their own, ended to the last one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from tests.support.processes import descendants

END_SECONDS = 5.0  # how long one that was asked to end may take before it is killed
START_SECONDS = 15.0  # Caddy and Node on a busy machine


class NotStarted(Exception):
    """A process did not come up; the text says which, and where its output is."""


@contextlib.contextmanager
def running(
    argv: Sequence[str],
    *,
    cores: Collection[int],
    log: Path,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    stop_signal: signal.Signals = signal.SIGTERM,
    stdout: int | IO[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``argv`` on ``cores`` (and whatever it starts) until the block is left; output goes to ``log``."""
    with log.open("ab") as output:
        former = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # inherited from this thread: nothing of the child ever runs elsewhere
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output if stdout is None else stdout,
                stderr=output,
                env={**os.environ, **(env or {})},
                pass_fds=pass_fds,
                start_new_session=True,
            )
        finally:
            os.sched_setaffinity(0, former)
    try:
        yield child
    finally:
        end(child, stop_signal)


def end(child: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    """End the child and its session's other processes; on return the child is reaped."""
    if child.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, stop_signal)
    deadline = time.monotonic() + END_SECONDS
    # Seen to be dead, but not reaped yet: as long as that is so, the number of its group is nobody else's.
    while time.monotonic() < deadline and os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def family(pid: int) -> list[int]:
    """``pid`` and its descendants, as they are now."""
    return [pid, *(line.pid for line in descendants(pid))]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_until_answering(port: int, path: str, child: subprocess.Popen[bytes], log: Path) -> None:
    """Return when ``GET path`` gives 200; raise NotStarted when the child ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as sock:
            sock.sendall(request)
            if sock.recv(64).split(b" ")[1:2] == [b"200"]:
                return
        if child.poll() is not None or time.monotonic() > deadline:
            raise NotStarted(
                f"{child.args!r} does not answer on port {port}:\n{log.read_text(errors='replace')[-2000:]}"
            )
        time.sleep(0.05)


def end_on_signals() -> None:
    """Let SIGTERM and SIGHUP end the benchmark as Ctrl-C does: through every ``finally``."""

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def in_background(act: Callable[[], None]) -> None:
    threading.Thread(target=act, daemon=True).start()
