"""What ``recover --heal`` and ``--check`` make of what they find. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rollbridge.daemon.intent import Intent

if TYPE_CHECKING:  # loads the event loop, which a run that finds all well does without
    from rollbridge.release.fleet import ReleaseIdentity

Document = Mapping[str, Any]


class Need(enum.Enum):
    """What a running daemon lacks."""

    NOTHING = "nothing"
    WAIT = "wait"  # it is about to change by itself
    RELEASE = "release"  # the last active release is to be brought up


def need_of(status: Document, intent: Intent, last_active: ReleaseIdentity | None) -> Need:
    """Return what the daemon with ``status`` lacks, for what is wanted."""
    daemon = status.get("daemon")
    if status.get("operation") or (isinstance(daemon, dict) and daemon.get("is_shutting_down")):
        return Need.WAIT
    if status.get("active_release_id"):
        return Need.RELEASE if has_given_up(status) and last_active is not None else Need.NOTHING
    if intent is not Intent.SERVE or last_active is None:
        return Need.NOTHING
    return Need.RELEASE


def is_serving(status: Document, application: str) -> bool:
    """Whether ``status`` is of the daemon of ``application``, with a release that serves and nothing going on."""
    return (
        status.get("application") == application
        and bool(status.get("active_release_id"))
        and need_of(status, Intent.SERVE, None) is Need.NOTHING
        and not has_given_up(status)
    )


def has_given_up(status: Document) -> bool:
    """Whether every proxied process of the active release has failed: nothing answers, and nothing starts it again."""
    proxied = [process for process in active_processes(status) if process.get("policy") == "proxied"]
    return bool(proxied) and all(process.get("state") == "failed" for process in proxied)


def active_processes(status: Document) -> list[Document]:
    releases = [release for release in _dicts(status.get("releases")) if release.get("state") == "active"]
    return [process for release in releases for process in _dicts(release.get("processes"))]


@dataclass(frozen=True, slots=True)
class Check:
    """The verdict of ``--check``: ``text`` is its one line."""

    is_ok: bool
    text: str


def check(status: Document, intent: Intent) -> Check:
    """Judge a daemon that answers: a release serves, and none of its processes has failed."""
    daemon = status.get("daemon")
    pid = daemon.get("pid") if isinstance(daemon, dict) else None
    active = status.get("active_release_id")
    if not active:
        why = "since it was stopped" if intent is Intent.IDLE else "the proxy answers 503"
        if status.get("operation"):
            why = f"{status['operation']} is going on"
        return Check(False, f"no release is active, {why} (daemon pid {pid})")
    shared = [*_dicts(status.get("services")), *_dicts(status.get("singletons"))]
    broken = [process for process in [*active_processes(status), *shared] if process.get("state") == "failed"]
    if broken:
        names = ", ".join(str(process.get("id")) for process in broken)
        return Check(False, f"release {active} is active, but failed: {names} (daemon pid {pid})")
    if status.get("state_error"):
        text = f"release {active} serves, but state file {status.get('state_path')} cannot be written"
        return Check(False, f"{text}: {status['state_error']} (daemon pid {pid})")
    orphans = _dicts(status.get("orphans"))
    if orphans:
        names = ", ".join(f"{orphan.get('id')} (pid {orphan.get('pid')})" for orphan in orphans)
        return Check(False, f"release {active} serves, but nobody manages: {names} (daemon pid {pid})")
    proxy = status.get("proxy") or {}
    return Check(True, f"release {active} serves on {proxy.get('host')}:{proxy.get('port')} (daemon pid {pid})")


def returnable(status: Document, missing: str, exists: Sequence[str]) -> list[str]:
    """Return the ids of kept releases other than ``missing`` whose directories are in ``exists``, newest first."""
    found = [
        str(release.get("release_id"))
        for release in reversed(_dicts(status.get("releases")))
        if release.get("release_id") != missing and release.get("release_path") in exists and release.get("stopped_at")
    ]
    return list(dict.fromkeys(found))


def _dicts(value: object) -> list[Document]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
