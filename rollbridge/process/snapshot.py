"""A managed process as ``status --json`` shows it (design section 5)."""

from __future__ import annotations

from collections.abc import Sequence

from rollbridge.process.exits import ExitStatus
from rollbridge.process.output import LogLine
from rollbridge.process.run import Counters, ProcessSpec, ProcessState, Run
from rollbridge.process.table import ProcessRow, read_command


def describe_process(
    spec: ProcessSpec,
    state: ProcessState,
    failure: str | None,
    run: Run | None,
    last_exit: ExitStatus | None,
    counters: Counters,
    members: Sequence[ProcessRow],
    logs: Sequence[LogLine],
    now: float,
) -> dict[str, object]:
    """``now`` is monotonic seconds. ``rss_bytes`` adds up resident sizes: pages shared in a tree count repeatedly."""
    is_up = run is not None and run.is_alive
    pid = run.leader.identity.pid if run and is_up else None
    shown_exit = None if is_up else last_exit
    return {
        "id": spec.instance_id,
        "process_id": spec.process.id,
        "policy": spec.process.policy.value,
        "release_id": spec.release_id,
        "replica_index": spec.replica_index,
        "port": spec.port,
        "state": state.value,
        "failure": failure,
        "pid": pid,
        "restarts": counters.restarts,
        "last_start_reason": run.reason.value if run else None,
        "adopted": run is not None and run.instance.is_adopted,
        "started_at": run.started_at if run else None,
        "uptime_seconds": round(now - run.started_monotonic, 3) if run and is_up else None,
        "exit_code": shown_exit.code if shown_exit else None,
        "exit_signal": shown_exit.signal_name if shown_exit else None,
        "rss_bytes": sum(row.rss_bytes for row in members),
        "memory_restarts": counters.memory_restarts,
        "last_memory_restart_at": counters.last_memory_restart_at,
        "children": [
            {"pid": row.pid, "command": read_command(row.pid), "rss_bytes": row.rss_bytes}
            for row in members
            if row.pid != pid
        ],
        "logs": [{"at": line.at, "stream": line.stream, "line": line.line} for line in logs],
    }
