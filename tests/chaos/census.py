"""The processes of the application under chaos, as /proc shows them, and how one of them is killed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.attribution import Kill
from tests.support.processes import ProcessLine, marked
from tests.support.waiting import wait_until

APP_ROLES = ("web", "jobs", "cron", "broker")
DAEMON, WORKER, OTHER = "daemon", "proxy worker", "other"
LISTENING = "0A"  # in /proc/net/tcp
DEATH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One living process; ``who`` is pid and start time, ``role`` one of the above."""

    pid: int
    parent: int
    who: str
    role: str
    release: str
    command: str

    def __str__(self) -> str:
        return f"{self.role} {self.who} ({self.release or '-'}): {self.command[:120]}"


def census(mark: str) -> list[Seen]:
    """Every living process that carries ``mark``, by pid."""
    found = []
    for line in marked(mark):
        with contextlib.suppress(OSError, IndexError):
            environ = dict(
                entry.split("=", 1)
                for entry in Path(f"/proc/{line.pid}/environ").read_bytes().decode(errors="replace").split("\0")
                if "=" in entry
            )
            release = environ.get("ROLLBRIDGE_RELEASE_ID", "")
            found.append(Seen(line.pid, line.parent, who(line.pid), role_of(line), release, line.command))
    daemons = {seen.pid for seen in found if seen.role == DAEMON}
    # What a daemon has forked and has not yet become another program still looks like it.
    return [seen for seen in found if not (seen.role == DAEMON and seen.parent in daemons)]


def role_of(line: ProcessLine) -> str:
    words = line.command.split(" ")
    if "_proxy-worker" in words:
        return WORKER
    for at, word in enumerate(words[:-1]):
        if word.endswith("/chaos/app.py") and words[at + 1] in APP_ROLES:
            return words[at + 1]
    return DAEMON if "daemon" in words else OTHER


def who(pid: int) -> str:
    """``<pid>-<start time in clock ticks>``. Raises OSError when there is no such process."""
    return f"{pid}-{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"


def client_ports(pid: int, port: int) -> frozenset[int]:
    """The clients' ports of the connections to ``port`` that ``pid`` holds. Raises OSError when it is gone."""
    return frozenset(peer for peer, state in _sockets(pid, port) if state != LISTENING)


def is_listening(pid: int, port: int) -> bool:
    """Whether ``pid`` holds the socket that listens on ``port``; a worker that retires has given it up."""
    try:
        return any(state == LISTENING for _, state in _sockets(pid, port))
    except OSError:
        return False


def _sockets(pid: int, port: int) -> list[tuple[int, str]]:
    """The peer's port and the state of every TCP socket on the local ``port`` that ``pid`` holds."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(descriptor)  # noqa: PTH115
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    local = f":{port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return [(int(row[2].rpartition(":")[2], 16), row[3]) for row in rows if row[1].endswith(local) and row[9] in inodes]


def kill(seen: Seen, proxy_port: int) -> Kill | None:
    """SIGKILL ``seen`` and wait until the kernel has taken back what it held; None when it is not there any more.

    A proxy worker is stopped first, so that the list of what it holds is complete and stays so.
    """
    with contextlib.ExitStack() as held:
        try:
            descriptor = os.pidfd_open(seen.pid)
            held.callback(os.close, descriptor)
            if who(seen.pid) != seen.who:
                return None
            at = time.monotonic()
            ports: frozenset[int] = frozenset()
            if seen.role == WORKER:
                signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
                wait_until(lambda: is_stopped(seen.pid), f"{seen} stops", timeout=DEATH_SECONDS, poll=0.0005)
                ports = client_ports(seen.pid, proxy_port)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except OSError:
            return None
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        if not ended.poll(DEATH_SECONDS * 1000):
            raise AssertionError(f"{seen} does not die of SIGKILL")
    return Kill(seen.role, seen.who, at, time.monotonic(), ports, seen.release)


def is_stopped(pid: int) -> bool:
    """Whether every thread is stopped; True, too, for one that is gone: there is nothing to wait for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TZX"
    except FileNotFoundError:
        return True
