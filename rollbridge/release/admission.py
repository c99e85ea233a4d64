"""Which release is meant, and whether it may come up now."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rollbridge.config.launch import check_release_identity
from rollbridge.config.model import Config
from rollbridge.process.managed import ProcessState
from rollbridge.release.errors import BadRequest, OperationRefused
from rollbridge.release.fleet import Fleet, ReleaseIdentity
from rollbridge.release.release import Release
from rollbridge.release.states import ReleaseState

_LONGEST_FILE_NAME: Final = 255  # bytes, NAME_MAX of every usual file system
_BESIDE_THE_IDS: Final = 20  # "~999." before and ".999.out" behind the process id, and some room


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """A deploy as asked for; id and revision may be left to us."""

    release_path: str
    release_id: str | None = None
    revision: str | None = None
    wait: bool = False
    force: bool = False


def identify(request: DeployRequest) -> ReleaseIdentity:
    """Return which release is meant; raise BadRequest when its path or its names cannot be used.

    Symbolic links are resolved now and only now: ``current`` may point elsewhere before the release
    ends, and every restart of it must find the same code. The id is by default the directory's name,
    the revision the id.
    """
    try:
        path = os.path.realpath(request.release_path)
        what = "" if Path(path).is_dir() else "is not a directory" if Path(path).exists() else "does not exist"
    except (OSError, ValueError) as error:  # not ours to enter, too long, with a NUL in it
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadRequest(
            f"release path {request.release_path[:200]!r} cannot be used: {str(reason).lower()}. Name a directory "
            f"that the daemon's user may enter"
        ) from error
    if what:
        raise BadRequest(f"release path {request.release_path} {what}: prepare the release there, then deploy again")
    release_id = request.release_id if request.release_id is not None else Path(path).name
    revision = request.revision if request.revision is not None else release_id
    issues = check_release_identity(release_id, revision)
    if issues:
        raise BadRequest("; ".join(f"{issue.message}: {issue.fix}" for issue in issues))
    return ReleaseIdentity(release_id, path, revision)


def check_names(config: Config, identity: ReleaseIdentity) -> None:
    """Raise BadRequest when the output files of the release would have names too long for a file system."""
    room = _LONGEST_FILE_NAME - _BESIDE_THE_IDS - max(len(process_id) for process_id in config.processes)
    if len(identity.release_id) > room:
        raise BadRequest(
            f"release id {identity.release_id[:60]}… has {len(identity.release_id)} characters; with the process ids "
            f"of this configuration at most {room} fit into a file name. Give a shorter --release-id"
        )


def already_active(fleet: Fleet, identity: ReleaseIdentity) -> bool:
    """Whether this very release serves; raise OperationRefused when its id serves from another path."""
    active = fleet.active
    if active is None or active.release_id != identity.release_id:
        return False
    if any(process.state is ProcessState.FAILED for process in active.proxied):
        return False  # it has given up: asked for again, it is to serve again
    if active.release_path != identity.release_path:
        raise OperationRefused(
            f"release id {identity.release_id} is active with path {active.release_path}, not "
            f"{identity.release_path}: choose another --release-id, or use --force to replace it"
        )
    return True


def rollback_target(fleet: Fleet, release_id: str | None) -> Release:
    """Return the release to go back to; raise OperationRefused when there is none.

    By default the most recently retired one; a release that failed was never good and is no target.
    """
    retained = [release for release in fleet.releases if release.state in (ReleaseState.DRAINING, ReleaseState.STOPPED)]
    if release_id is None:
        if not retained:
            raise OperationRefused("no release has been retired yet, so there is nothing to roll back to")
        return _present(max(retained, key=lambda release: release.drain_started_at or release.stopped_at or 0.0))
    active = fleet.active
    if active is not None and active.release_id == release_id:
        return active
    named = [release for release in retained if release.release_id == release_id]
    if not named:
        known = ", ".join(dict.fromkeys(release.release_id for release in retained)) or "none"
        raise OperationRefused(f"release {release_id} is not retained; those that are: {known}")
    return _present(named[-1])


def _present(target: Release) -> Release:
    """Return ``target``; raise OperationRefused when it would have to start and its directory is gone."""
    if target.state is ReleaseState.STOPPED and not os.path.isdir(target.release_path):  # noqa: PTH112 - never raises
        raise OperationRefused(
            f"release {target.release_id} cannot come back: its directory {target.release_path} is gone. Restore it, "
            f"roll back to another with --release-id, or deploy another release"
        )
    return target
