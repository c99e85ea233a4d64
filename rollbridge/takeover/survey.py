"""What an ended daemon left: its state file, read without touching it, and the processes that live."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rollbridge.daemon.attach import is_worker_at, unrecorded_workers
from rollbridge.daemon.recorded import RecordedState, read_recorded
from rollbridge.daemon.state_file import State, StateNewer, read_state_file
from rollbridge.process.identity import read_boot_id, read_ticks_now
from rollbridge.process.marked import output_in
from rollbridge.process.table import read_command, read_environment_value, scan_processes
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


@dataclass(frozen=True, slots=True)
class KnownState:
    """The state file. ``complaint`` is why it cannot be used, empty when it can, or when there is none.

    With a complaint, ``state`` is that of the file before it, or empty.
    """

    path: str
    state: State
    recorded: RecordedState
    is_there: bool
    complaint: str = ""
    is_newer: bool = False  # whole, but only a newer rollbridge can tell what it says


def read_state(path: str) -> KnownState:
    """Read the state file, or the one before it when it is damaged, and leave both as they are."""
    try:
        loaded = read_state_file(path)
    except OSError as error:
        complaint = f"state file {path} cannot be read: {error.strerror}"
        return KnownState(path, {}, read_recorded({}), True, complaint)
    except StateNewer as error:
        return KnownState(path, {}, read_recorded({}), True, str(error), is_newer=True)
    return KnownState(path, loaded.state, read_recorded(loaded.state), loaded.is_there, loaded.complaint)


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
    # Workers carry no mark: that they were started as such must show in their command line.
    real = [one for one in known.recorded.workers if is_worker_at(one.pid, one.socket_path)]
    suspects = list_suspects(replace(known.recorded, workers=tuple(real)), table)
    boot_id = read_boot_id()
    workers = known.recorded.workers if known.recorded.boot_id == boot_id else ()
    suspects += worker_suspects(unrecorded_workers(runtime_dir, workers), boot_id)

    def living(among: list[Suspect]) -> list[Orphan]:
        return find_orphans(
            among,
            table,
            own_pid=os.getpid(),
            ticks_now=read_ticks_now(),
            ticks_per_second=os.sysconf("SC_CLK_TCK"),
            read_command=read_command,
        )

    orphans = living(suspects)
    # What is on record under a wrong identity, and not found by that, is found by its mark as well.
    unrecorded = unrecorded_suspects(
        table,
        [orphan.suspect for orphan in orphans],
        lambda pid: output_in(pid, f"{runtime_dir}/output/"),
        lambda pid: read_environment_value(pid, "ROLLBRIDGE_RELEASE_ID") or "",
    )
    return [*orphans, *living(unrecorded)]
