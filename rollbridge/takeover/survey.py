"""What an ended daemon left: its state file, read without touching it, and the processes that live."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rollbridge.daemon.attach import unrecorded_workers
from rollbridge.daemon.recorded import RecordedState, read_recorded
from rollbridge.daemon.state_file import State, StateUnusable, decode_state
from rollbridge.process.identity import read_boot_id, read_ticks_now
from rollbridge.process.table import ProcessTable, read_command, read_environment_value, scan_processes
from rollbridge.takeover.orphans import (
    Orphan,
    Suspect,
    find_orphans,
    list_suspects,
    unrecorded_suspects,
    worker_suspects,
)

# File systems in memory: what lies there is gone after a reboot.
_IN_MEMORY: Final = ("tmpfs", "ramfs")
_GONE: Final = " (deleted)"


@dataclass(frozen=True, slots=True)
class KnownState:
    """The state file. ``complaint`` is why it cannot be used, empty when it can, or when there is none."""

    path: str
    state: State
    recorded: RecordedState
    is_there: bool
    complaint: str = ""


def read_state(path: str) -> KnownState:
    """Read the state file and leave it as it is, whatever it is."""
    nothing = read_recorded({})
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return KnownState(path, {}, nothing, is_there=False)
    except OSError as error:
        return KnownState(path, {}, nothing, True, f"state file {path} cannot be read: {error.strerror}")
    try:
        state = decode_state(data)
    except StateUnusable as error:
        return KnownState(path, {}, nothing, True, f"state file {path} cannot be used: {error}")
    return KnownState(path, state, read_recorded(state), is_there=True)


def is_in_memory(path: str) -> bool:
    """Whether ``path`` lies on a file system that a reboot empties."""
    best, kind = "", ""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    real = os.path.realpath(path)
    for line in mounts.splitlines():
        _, point, fs_type, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fs_type
    return kind in _IN_MEMORY


def survey(known: KnownState, runtime_dir: str) -> list[Orphan]:
    """Return everything of this application that lives and that an ended daemon left. Ask only when none runs."""
    table = scan_processes()
    suspects = list_suspects(known.recorded, table)
    boot_id = read_boot_id()
    workers = known.recorded.workers if known.recorded.boot_id == boot_id else ()
    suspects += worker_suspects(unrecorded_workers(runtime_dir, workers), boot_id)
    suspects += [
        _named(suspect, table)
        for suspect in unrecorded_suspects(table, suspects, lambda pid: writes_into(pid, f"{runtime_dir}/output/"))
    ]
    return find_orphans(
        suspects,
        table,
        own_pid=os.getpid(),
        ticks_now=read_ticks_now(),
        ticks_per_second=os.sysconf("SC_CLK_TCK"),
        read_command=read_command,
    )


def writes_into(pid: int, directory: str) -> bool:
    """Whether stdout or stderr of ``pid`` is a file in ``directory``, deleted or not."""
    for descriptor in (1, 2):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")  # noqa: PTH115
        except OSError:
            continue
        if target.removesuffix(_GONE).startswith(directory):
            return True
    return False


def _named(suspect: Suspect, table: ProcessTable) -> Suspect:
    """Return an unrecorded suspect under the name its environment gives it."""
    pid = suspect.instance.leader.pid
    release_id = read_environment_value(pid, "ROLLBRIDGE_RELEASE_ID") or ""
    process_id = read_environment_value(pid, "ROLLBRIDGE_PROCESS_ID") or "unknown"
    name = f"{release_id}.{process_id}" if release_id else process_id
    return Suspect(f"{name} (not recorded)", release_id, suspect.instance)
