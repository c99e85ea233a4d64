"""Looks for what lives of this application when the state file cannot tell all of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rollbridge.config.model import Config
from rollbridge.daemon.attach import AttachedWorker
from rollbridge.daemon.errors import DaemonFailed
from rollbridge.daemon.rebuild import Seen, Sighted, complete, unaccounted
from rollbridge.daemon.recorded import RecordedState
from rollbridge.process.clock import format_at
from rollbridge.process.identity import read_boot_id, read_ticks_now
from rollbridge.process.managed import ProcessState, StartReason
from rollbridge.process.marked import Marked, find_marked, output_in
from rollbridge.process.records import ProcessRecord, encode_record
from rollbridge.process.table import read_environment, scan_processes

_REFUSED = 4


def find_again(
    recorded: RecordedState,
    config: Config,
    workers: Sequence[AttachedWorker],
    record: Callable[[str, dict[str, object]], None],
    is_whole: bool,
) -> RecordedState:
    """Return ``recorded`` with everything that lives and that it does not tell of.

    ``is_whole``: it was written last, and is to be believed, unless the workers serve a release that it does not know
    (somebody has put an older file back). Raises DaemonFailed when what they serve cannot be found and the state is not
    to be believed either: our first route would end that.
    """
    directory = f"{config.runtime_dir}/output/"
    boot_id = read_boot_id()
    found = find_marked(scan_processes(), _tokens(recorded, boot_id), lambda pid: output_in(pid, directory))
    sighted = [_sighted(one, directory) for one in found]
    seen = Seen(
        frozenset(worker.active for worker in workers if worker.active is not None),
        frozenset(key for worker in workers for key in worker.routed),
    )
    if sighted:
        record("found without a record", {"processes": sorted(one.instance_id for one in sighted)})
    if is_whole and not unaccounted(recorded, seen):
        return replace(recorded, orphans=(*recorded.orphans, *(one.record for one in sighted)))
    whole = complete(recorded, sighted, seen, config, boot_id, time.time())
    lost = [] if is_whole else unaccounted(whole, seen)
    if lost:
        raise DaemonFailed(
            f"the proxy workers of an earlier daemon serve release {', '.join(lost)}, and no state file tells of its "
            f"processes. They are left as they are, and serve. Put the state file back as {config.state_path}, or end "
            f"them with rollbridge recover --force, and deploy again",
            _REFUSED,
        )
    return whole


def _tokens(recorded: RecordedState, boot_id: str) -> set[str]:
    """Return the marks that are on record; of another boot they do not tell of what lives now."""
    records = [
        *(process for release in recorded.releases for process in release.processes),
        *recorded.services,
        *recorded.singletons,
        *recorded.orphans,
    ]
    return {str(one.get("instance")) for one in records if one.get("boot_id") == boot_id}


def _sighted(found: Marked, directory: str) -> Sighted:
    environ = read_environment(found.leader.pid)
    age_seconds = (read_ticks_now() - found.leader.start_ticks) / os.sysconf("SC_CLK_TCK")
    record = ProcessRecord(
        instance_id=found.instance_id,
        release_id=environ.get("ROLLBRIDGE_RELEASE_ID", ""),
        state=ProcessState.RUNNING.value,
        identity=found.leader,
        token=found.token,
        last_start_reason=StartReason.ADOPTED.value,
        started_at=format_at(datetime.fromtimestamp(time.time() - age_seconds, UTC)),
        started_monotonic=time.monotonic() - age_seconds,
        boot_id=found.leader.boot_id,
        exit_code=None,
        exit_signal=None,
        has_exited=False,
        restarts=0,
        restart_times=(),
        memory_restarts=0,
        last_memory_restart_at=None,
        is_memory_warned=False,
        is_probation=False,
        output=_places(Path(directory, found.instance_id)),
    )
    return Sighted(encode_record(record), environ)


def _places(base: Path) -> dict[str, object]:
    """Where reading goes on: at the end, since nobody knows what was read, and given back, of what lies before."""
    return {name: _place(Path(f"{base}.{ending}")) for name, ending in (("stdout", "out"), ("stderr", "err"))}


def _place(path: Path) -> dict[str, int]:
    try:
        found = path.stat()
    except OSError:
        return {}
    return {"inode": found.st_ino, "offset": found.st_size, "punched": 0}
