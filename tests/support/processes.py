"""The process table as the tests see it: who carries a mark, who are whose children, what they cost."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import wait_until

# Not ROLLBRIDGE_...: that the daemon does not hand on, and what must not survive could not be found.
MARK_VARIABLE = "RBT_MARK"


@dataclass(frozen=True, slots=True)
class ProcessLine:
    """One line of the process table; ``state`` as in /proc (``Z`` for a zombie)."""

    pid: int
    parent: int
    state: str
    command: str

    def __str__(self) -> str:
        return f"{self.pid} (parent {self.parent}, {self.state}): {self.command[:160]}"


def read_process(pid: int) -> ProcessLine | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    name, _, rest = stat.partition("(")[2].rpartition(")")
    fields = rest.split()
    return ProcessLine(pid, int(fields[1]), fields[0], command or f"[{name}]")


def all_processes() -> list[ProcessLine]:
    lines = (read_process(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208
    return [line for line in lines if line is not None]


def is_running(pid: int) -> bool:
    """Whether ``pid`` exists and is not a zombie."""
    line = read_process(pid)
    return line is not None and line.state not in "ZX"


def marked(mark: str) -> list[ProcessLine]:
    """Every living process whose environment carries ``mark``."""
    needle = f"{MARK_VARIABLE}={mark}".encode()
    found = []
    for line in all_processes():
        if line.pid == os.getpid() or line.state in "ZX":
            continue
        with contextlib.suppress(OSError):
            if needle in Path(f"/proc/{line.pid}/environ").read_bytes().split(b"\0"):
                found.append(line)
    return found


def children(pid: int) -> list[ProcessLine]:
    return [line for line in all_processes() if line.parent == pid]


def descendants(pid: int) -> list[ProcessLine]:
    table = all_processes()
    known = {pid}
    found: list[ProcessLine] = []
    grew = True
    while grew:
        fresh = [line for line in table if line.parent in known and line.pid not in known]
        known |= {line.pid for line in fresh}
        found += fresh
        grew = bool(fresh)
    return found


def zombies_of(pid: int) -> list[ProcessLine]:
    return [line for line in children(pid) if line.state == "Z"]


def send(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def kill_and_wait(pid: int) -> None:
    """SIGKILL ``pid`` and wait until it is gone or a zombie."""
    send(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), f"pid {pid} dies of SIGKILL")


def count_fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def status_number(pid: int, field: str) -> int:
    """A number of /proc/<pid>/status, such as ``Threads`` or ``VmRSS`` (KiB)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise LookupError(f"/proc/{pid}/status has no {field}")
