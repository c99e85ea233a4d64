"""``recover --force``: ends what an ended daemon left, and keeps account of what could not be ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rollbridge.config.model import Config, ProcessConfig
from rollbridge.daemon.events import KEPT_EVENTS
from rollbridge.daemon.intent import Intent
from rollbridge.daemon.state_file import State, encode_state, load_state, write_state
from rollbridge.release.states import ReleaseState
from rollbridge.takeover.ending import Survivor, Target, end_trees
from rollbridge.takeover.orphans import Orphan, Suspect
from rollbridge.takeover.survey import KnownState

DEFAULT_GRACE_SECONDS: Final = 10.0  # of a process whose configuration cannot be read; the default of the setting


@dataclass(frozen=True, slots=True)
class Forced:
    """What became of the orphans."""

    stopped: tuple[Orphan, ...]
    survivors: tuple[Survivor, ...]


def force_end(orphans: Sequence[Orphan], config: Config | None) -> Forced:
    """End every orphan's tree, as its definition says where that can be known; the workers first, so that no request
    reaches what is about to end. The caller holds the daemon's lock."""
    own_pid = os.getpid()
    workers = [orphan for orphan in orphans if orphan.suspect.is_worker]
    others = [orphan for orphan in orphans if not orphan.suspect.is_worker]
    survivors = end_trees([_target(orphan, own_pid, config) for orphan in workers])
    survivors += end_trees([_target(orphan, own_pid, config) for orphan in others])
    alive = {survivor.target for survivor in survivors}
    return Forced(tuple(orphan for orphan in orphans if _name(orphan) not in alive), tuple(survivors))


def _name(orphan: Orphan) -> str:
    return f"{orphan.suspect.id} (pid {orphan.pid})"


def _target(orphan: Orphan, own_pid: int, config: Config | None) -> Target:
    suspect = orphan.suspect
    signum, grace = (signal.SIGKILL, 0.0) if suspect.is_worker else how_to_stop(suspect, config)
    return Target(_name(orphan), lambda table, known: suspect.members(table, own_pid, known), signum, grace)


def how_to_stop(suspect: Suspect, config: Config | None) -> tuple[int, float]:
    """Return stop signal and seconds to SIGKILL; ``"indefinite"`` is for a graceful end, and this one is forced."""
    process = _definition(suspect, config)
    if process is None:
        grace = config.proxy.force_stop_timeout_seconds if config else DEFAULT_GRACE_SECONDS
        return signal.SIGTERM, grace
    grace_seconds = process.graceful_stop_seconds
    if grace_seconds is None:
        assert config is not None
        grace_seconds = config.proxy.force_stop_timeout_seconds
    return process.stop_signal, grace_seconds


def _definition(suspect: Suspect, config: Config | None) -> ProcessConfig | None:
    """Return the process of the config that ``suspect`` is an instance of: ``r42.web.0``, or ``broker``."""
    if config is None:
        return None
    parts = suspect.id.rsplit(".", 2)
    return config.processes.get(parts[-2] if len(parts) == 3 else suspect.id)


def state_after_force(state: State, orphans: Sequence[Orphan], survivors: Sequence[Survivor], at: str) -> State:
    """Return what the state file says from now on: nothing runs but what could not be ended, and nothing is to."""
    alive = {survivor.target: survivor for survivor in survivors}
    releases = state.get("releases")
    kept = [_kept(orphan, alive[_name(orphan)]) for orphan in orphans if _name(orphan) in alive]
    events = state.get("events")
    event = {
        "at": at,
        "message": "orphans stopped by recover --force",
        "data": {"stopped": len(orphans) - len(kept), "left": [entry["id"] for entry in kept]},
    }
    return {
        **state,
        "intent": Intent.DOWN.value,
        "active": None,
        "releases": [_ended(release) for release in releases if isinstance(release, dict)]
        if isinstance(releases, list)
        else [],
        "services": [],
        "singletons": [],
        "workers": [],
        "orphans": kept,
        "events": [*(events if isinstance(events, list) else []), event][-KEPT_EVENTS:],
        "written_at": at,
    }


def _kept(orphan: Orphan, survivor: Survivor) -> dict[str, object]:
    instance = orphan.suspect.instance
    return {
        "id": orphan.suspect.id,
        "release_id": orphan.suspect.release_id or None,
        "pid": instance.leader.pid,
        "start_ticks": instance.leader.start_ticks,
        "boot_id": instance.leader.boot_id,
        "instance": instance.token or None,
        "why": survivor.why,
    }


def _ended(release: Mapping[str, object]) -> dict[str, object]:
    after = {
        ReleaseState.STARTING.value: ReleaseState.FAILED.value,
        ReleaseState.ACTIVE.value: ReleaseState.STOPPED.value,
        ReleaseState.DRAINING.value: ReleaseState.STOPPED.value,
    }
    state = release.get("state")
    return {**release, "state": after.get(str(state), state), "processes": []}


def write_after_force(known: KnownState, orphans: Sequence[Orphan], survivors: Sequence[Survivor], at: str) -> None:
    """Write ``state_after_force``; a file that cannot be used is left for whoever repairs it, or put aside when the
    one before it was used. Raises OSError."""
    is_lost = known.complaint and not known.state
    if is_lost or not (known.is_there or survivors):
        return
    if known.complaint:
        load_state(known.path)
    write_state(known.path, encode_state(state_after_force(known.state, orphans, survivors, at)))
