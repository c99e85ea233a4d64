"""What a version of the code says of itself before a daemon goes on as it, or gives way to it.

Run as the hidden command ``_upgrade-check`` of the new file, in a process of its own: what is wrong with that file ends
that process, and nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from rollbridge.release.errors import OperationRefused

FAILED: Final = 1
REFUSED: Final = 4
_SKIPPED: Final = frozenset({"rollbridge.__main__"})  # importing it would run it, when it was named by its path


class CheckFailed(Exception):
    """This code must not take over; the message is one sentence for the operator, or more."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Fitness:
    """What code says of itself that may take over."""

    version: str
    digest: str
    worker_protocols: tuple[int, ...]  # of the workers that it can supervise
    handovers: tuple[int, ...]  # documents that it understands
    settings: Mapping[str, object]  # what it reads in the config of those that must stay; empty when it does not say


def import_everything() -> None:
    """Import every module of the package, and psutil's compiled part; raise CheckFailed with what cannot be."""
    import rollbridge

    for module in pkgutil.walk_packages(rollbridge.__path__, "rollbridge."):
        if module.name in _SKIPPED:
            continue
        try:
            importlib.import_module(module.name)
        except BaseException as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = [frame for frame in frames if not frame.filename.startswith("<")][-1:]
            where = f" ({place[0].filename.rpartition('/')[2]}, line {place[0].lineno})" if place else ""
            raise CheckFailed(f"{module.name} cannot be imported: {type(error).__name__}: {error}{where}") from error
    import psutil

    psutil.Process().create_time()


def examine(config_path: str) -> Fitness:
    """Check that this code can take over the application of ``config_path`` as it runs now.

    Raises CheckFailed, ConfigError.
    """
    from rollbridge.config.load import load_config
    from rollbridge.config.reload import handed_on
    from rollbridge.daemon.handover import VERSIONS
    from rollbridge.daemon.recorded import read_recorded
    from rollbridge.daemon.state_file import StateNewer, read_state_file
    from rollbridge.proxy.messages import PROTOCOL
    from rollbridge.runtime import runtime_info

    environ = dict(os.environ)
    config = load_config(config_path, environ)
    try:
        loaded = read_state_file(config.state_path)
    except StateNewer as error:
        raise CheckFailed(str(error), REFUSED) from error
    except OSError as error:
        raise CheckFailed(f"state file {config.state_path} cannot be read: {error.strerror}") from error
    if loaded.complaint:
        raise CheckFailed(loaded.complaint)
    state = loaded.state
    if str(state.get("application", config.application)) != config.application:
        raise CheckFailed(
            f"the daemon runs application {state.get('application')}, and {config_path} is of {config.application}: an "
            f"upgrade does not rename it",
            REFUSED,
        )
    from rollbridge.daemon.definitions import undefined_processes

    undefined = undefined_processes(config, environ, read_recorded(state))
    if undefined:
        raise CheckFailed(
            f"{', '.join(undefined)} {'runs' if len(undefined) == 1 else 'run'}, and the configuration does not define "
            f"{'it' if len(undefined) == 1 else 'them'} any more: put the configuration back, and change it when "
            f"{'it has' if len(undefined) == 1 else 'they have'} been stopped",
            REFUSED,
        )
    runtime = runtime_info()
    return Fitness(runtime.version, runtime.digest, (PROTOCOL,), VERSIONS, handed_on(config))


def refuse_other_settings(ours: Mapping[str, object], theirs: Mapping[str, object]) -> None:
    """Raise OperationRefused when the next daemon has read ``theirs``: settings that this one cannot hand on so."""
    changed = [name for name, value in ours.items() if theirs.get(name, value) != value]
    if changed:
        raise OperationRefused(
            f"the configuration changed where no next daemon can follow: {', '.join(changed)}. Change it back, or "
            f"restart the daemon (rollbridge shutdown, then deploy --ensure-daemon)"
        )


def read_fitness(exit_code: int | None, stdout: str, stderr: str) -> Fitness:
    """Return what the check of other code has found; raise CheckFailed with its reason, or with what it printed."""
    shape = _last_object(stdout)
    error = shape.get("error")
    if isinstance(error, str):
        code = shape.get("exit_code")
        raise CheckFailed(error, REFUSED if code == REFUSED else FAILED)
    version, digest = shape.get("version"), shape.get("digest")
    if exit_code != 0 or not isinstance(version, str) or not isinstance(digest, str):
        words = [line.strip() for line in (stderr or stdout).splitlines() if line.strip()]
        said = words[-1].removeprefix("rollbridge: ")[:300] if words else "it says nothing"
        how = "was ended by a signal" if exit_code is None else f"exited with code {exit_code}"
        raise CheckFailed(f"its check {how}: {said}")
    protocols, handovers = _numbers(shape.get("worker_protocols")), _numbers(shape.get("handovers"))
    settings = shape.get("settings")
    return Fitness(version, digest, protocols, handovers, settings if isinstance(settings, dict) else {})


def _last_object(text: str) -> Mapping[str, object]:
    lines = text.strip().splitlines()
    try:
        shape = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return shape if isinstance(shape, dict) else {}


def _numbers(value: object) -> tuple[int, ...]:
    return tuple(one for one in value if isinstance(one, int)) if isinstance(value, Iterable) else ()
