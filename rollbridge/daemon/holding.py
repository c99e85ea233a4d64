"""What a daemon takes before its loop begins: directory, lock, state, workers, port. Each exists once."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rollbridge.config.model import Config
from rollbridge.control.listening import ControlSocketError, SocketInUse, refuse_what_is_not_ours_to_replace
from rollbridge.daemon.attach import AttachedWorker, attach_workers, has_worker, unrecorded_workers
from rollbridge.daemon.errors import DaemonFailed
from rollbridge.daemon.events import EventLog
from rollbridge.daemon.handover import Continuation
from rollbridge.daemon.listener import ListenerError, open_listener
from rollbridge.daemon.lock import DaemonLock, LockHeld
from rollbridge.daemon.recorded import RecordedState, read_recorded
from rollbridge.daemon.runtime_dir import RuntimeDirError, prepare_runtime_dir
from rollbridge.daemon.search import find_again
from rollbridge.daemon.state_file import StateNewer, load_state
from rollbridge.process.identity import read_boot_id
from rollbridge.runtime import LastingCommand, UnsafeDirectory, lasting_command, restore_copy

_REFUSED: Final = 4
_PORT_SECONDS: Final = 5.0  # for a worker that was started in an earlier daemon's last moment to come up, or to die
_PORT_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Held:
    """What was taken before the loop began: each exists once, and is given back before a shutdown is answered."""

    config: Config
    events: EventLog
    lock: DaemonLock
    recorded: RecordedState
    workers: tuple[AttachedWorker, ...]  # of an earlier daemon
    listener: socket.socket


@contextlib.contextmanager
def hold(
    config: Config, events: EventLog, environ: Mapping[str, str], continuation: Continuation | None
) -> Iterator[Held]:
    """Take the runtime directory, the lock, the state and the port; raise DaemonFailed when one is not to be had.

    Lock and port are those that the code before us hands over, when there is a ``continuation``.
    """
    try:
        prepare_runtime_dir(config.runtime_dir)
        Path(config.state_path).parent.mkdir(parents=True, exist_ok=True)
        if continuation is None:
            lock = DaemonLock(config.runtime_dir)
            # Somebody may have deleted the lock of a daemon that lives: it answers, and its workers stay its own.
            refuse_what_is_not_ours_to_replace(config.control.path)
        else:
            lock = DaemonLock.inherited(config.runtime_dir, continuation.handover.lock)
    except LockHeld as error:
        raise DaemonFailed(f"{error}: use it, or end it with rollbridge shutdown", _REFUSED) from error
    except RuntimeDirError as error:
        raise DaemonFailed(str(error)) from error
    except ControlSocketError as error:
        raise DaemonFailed(str(error), _REFUSED if isinstance(error, SocketInUse) else 1) from error
    except OSError as error:
        raise DaemonFailed(f"preparing {error.filename}: {error.strerror}") from error
    try:
        if continuation is not None:
            continuation.keep_state(config.state_path)
        loaded = load_state(config.state_path)
    except StateNewer as error:
        raise DaemonFailed(
            f"{error}. Use that version or a newer one; or shut down with it, and move the file away to start empty",
            _REFUSED,
        ) from error
    except OSError as error:
        raise DaemonFailed(
            f"state file {config.state_path} cannot be read ({error.strerror}): what runs would be lost track of. "
            f"Make it readable for uid {os.getuid()}, or move it away"
        ) from error
    if loaded.complaint:
        events.record("state file unusable", {"error": loaded.complaint})
    recorded = read_recorded(loaded.state)
    workers, listener = _take_listener(config, recorded, events, environ, continuation)
    if listener.getsockname()[1] != config.proxy.port:
        raise DaemonFailed(
            f"the workers of the earlier daemon serve port {listener.getsockname()[1]}, the configuration says "
            f"{config.proxy.port}: set proxy.port back, start the daemon, and shut it down before you change the port",
            _REFUSED,
        )
    if continuation is None or not loaded.is_whole:
        recorded = find_again(recorded, config, workers, events.record, loaded.is_whole)
    with listener:
        yield Held(config, events, lock, recorded, workers, listener)


def _take_listener(
    config: Config,
    recorded: RecordedState,
    events: EventLog,
    environ: Mapping[str, str],
    continuation: Continuation | None,
) -> tuple[tuple[AttachedWorker, ...], socket.socket]:
    """Return the workers that live and the listening socket: what we have
    been handed, theirs, or one of our own; raise DaemonFailed."""
    boot_id = read_boot_id()
    in_this_boot = recorded.workers if recorded.boot_id == boot_id else ()
    deadline = time.monotonic() + _PORT_SECONDS
    while True:
        unrecorded = unrecorded_workers(config.runtime_dir, in_this_boot)
        attachment = attach_workers((*in_this_boot, *unrecorded), boot_id, events.record)
        if continuation is not None:
            if attachment.listener is not None:
                attachment.listener.close()
            return attachment.workers, continuation.listener()
        if attachment.listener is not None:
            return attachment.workers, attachment.listener
        try:
            return attachment.workers, open_listener(config.proxy.host, config.proxy.port, environ)
        except ListenerError as error:
            is_ours = error.is_held and has_worker(config.runtime_dir)
            if not is_ours or attachment.workers or time.monotonic() >= deadline:
                raise DaemonFailed(str(error), _REFUSED if error.is_held else 1) from error
        # A worker of ours has the port: one that comes up, orphaned, and will answer, or one that dies.
        time.sleep(_PORT_POLL_SECONDS)


def prepare_code(runtime_dir: str) -> tuple[LastingCommand, Callable[[], None]]:
    """Return how to run this code again, also when the file it was started from has been replaced or deleted.

    The function returned with it puts back what that needs of the runtime directory, should somebody have emptied it
    (fallbacks below /tmp are cleaned by age); it raises RuntimeDirError, UnsafeDirectory and OSError.
    """
    try:
        command = lasting_command(runtime_dir)
    except (UnsafeDirectory, OSError) as error:
        raise DaemonFailed(
            f"this file cannot be copied to {runtime_dir}, where its workers run from: {error}"
        ) from error
    if not command.copy:
        return command, lambda: prepare_runtime_dir(runtime_dir)
    descriptor = os.open(command.copy, os.O_RDONLY | os.O_CLOEXEC)

    def put_back() -> None:
        prepare_runtime_dir(runtime_dir)
        restore_copy(command.copy, descriptor)

    return command, put_back
