"""``rollbridge daemon``: from the command line to a supervisor that serves, and to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rollbridge.config.issues import ConfigError
from rollbridge.config.load import load_config
from rollbridge.config.model import Config
from rollbridge.control.server import ControlServer, SocketInUse
from rollbridge.daemon.adoption import Adopted, repair, take_over
from rollbridge.daemon.attach import AttachedWorker, attach_workers, has_worker, unrecorded_workers
from rollbridge.daemon.bootstrap import bootstrap, bootstrap_request
from rollbridge.daemon.code_copies import delete_unused_copies
from rollbridge.daemon.commands import command_handler
from rollbridge.daemon.errors import DaemonFailed
from rollbridge.daemon.events import EventLog
from rollbridge.daemon.listener import ListenerError, open_listener
from rollbridge.daemon.lock import DaemonLock, LockHeld
from rollbridge.daemon.options import DaemonOptions
from rollbridge.daemon.pid_file import pid_file
from rollbridge.daemon.recorded import RecordedState, read_recorded
from rollbridge.daemon.reloading import listen_for_reload
from rollbridge.daemon.runtime_dir import RuntimeDirError, prepare_runtime_dir
from rollbridge.daemon.search import find_again
from rollbridge.daemon.service_manager import ServiceManager, failure_told
from rollbridge.daemon.state_file import StateNewer, load_state
from rollbridge.daemon.supervisor import Machinery, Supervisor
from rollbridge.daemon.workers import WorkerPool, worker_count, worker_settings
from rollbridge.process.clock import SystemClock
from rollbridge.process.identity import read_boot_id
from rollbridge.process.output import OutputFollower
from rollbridge.process.reaper import Reaper
from rollbridge.runtime import UnsafeDirectory, private_copy, restore_copy, runtime_info, self_command

_REFUSED: Final = 4
_PORT_SECONDS: Final = 5.0  # for a worker that was started in an earlier daemon's last moment to come up, or to die
_PORT_POLL_SECONDS: Final = 0.05
_ANSWER_GRACE_SECONDS: Final = 2.0  # for a client to read the answer of its shutdown


@dataclass(frozen=True, slots=True)
class Held:
    """What was taken before the loop began: each exists once, and is given back before a shutdown is answered."""

    config: Config
    events: EventLog
    lock: DaemonLock
    recorded: RecordedState
    workers: tuple[AttachedWorker, ...]  # of an earlier daemon
    listener: socket.socket


def run_daemon(config_path: str, options: DaemonOptions) -> int:
    """Run in the foreground until shut down; return the exit code.

    Raises ConfigError for a broken config, DaemonFailed for everything that keeps the daemon from starting.
    """
    environ = dict(os.environ)
    with failure_told(environ, ConfigError, DaemonFailed):
        config = load_config(config_path, environ)
        events = EventLog(sys.stderr.fileno(), time.time, Path(config.runtime_dir, "daemon.log"))
        with _held(config, events, environ) as held, _pid_file(options.pid_path):
            return asyncio.run(_serve(held, options, environ))


@contextlib.contextmanager
def _pid_file(path: str | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(pid_file(path))
        except OSError as error:
            raise DaemonFailed(f"pid file {path}: {error.strerror}") from error
        yield


@contextlib.contextmanager
def _held(config: Config, events: EventLog, environ: Mapping[str, str]) -> Iterator[Held]:
    """Take the runtime directory, the lock, the state and the port; raise DaemonFailed when one is not to be had."""
    try:
        prepare_runtime_dir(config.runtime_dir)
        Path(config.state_path).parent.mkdir(parents=True, exist_ok=True)
        lock = DaemonLock(config.runtime_dir)
    except LockHeld as error:
        raise DaemonFailed(f"{error}: use it, or end it with rollbridge shutdown", _REFUSED) from error
    except RuntimeDirError as error:
        raise DaemonFailed(str(error)) from error
    except OSError as error:
        raise DaemonFailed(f"preparing {error.filename}: {error.strerror}") from error
    try:
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
    workers, listener = _take_listener(config, recorded, events, environ)
    if listener.getsockname()[1] != config.proxy.port:
        raise DaemonFailed(
            f"the workers of the earlier daemon serve port {listener.getsockname()[1]}, the configuration says "
            f"{config.proxy.port}: set proxy.port back, start the daemon, and shut it down before you change the port",
            _REFUSED,
        )
    if not loaded.is_whole:
        recorded = find_again(recorded, config, workers, events.record)
    with listener:
        yield Held(config, events, lock, recorded, workers, listener)


def _take_listener(
    config: Config, recorded: RecordedState, events: EventLog, environ: Mapping[str, str]
) -> tuple[tuple[AttachedWorker, ...], socket.socket]:
    """Return the workers that live and the listening socket: theirs, or one of our own; raise DaemonFailed."""
    boot_id = read_boot_id()
    in_this_boot = recorded.workers if recorded.boot_id == boot_id else ()
    deadline = time.monotonic() + _PORT_SECONDS
    while True:
        unrecorded = unrecorded_workers(config.runtime_dir, in_this_boot)
        attachment = attach_workers((*in_this_boot, *unrecorded), boot_id, events.record)
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


def _lasting_command(runtime_dir: str) -> tuple[list[str], Callable[[], None]]:
    """Return how to run this code again, also when the file it was started from has been replaced or deleted.

    The function returned with it puts back what that needs of the runtime directory, should somebody have emptied it
    (fallbacks below /tmp are cleaned by age); it raises RuntimeDirError, UnsafeDirectory and OSError.
    """
    command = self_command()
    try:
        copy = private_copy(runtime_dir)
    except (UnsafeDirectory, OSError) as error:
        raise DaemonFailed(
            f"this file cannot be copied to {runtime_dir}, where its workers run from: {error}"
        ) from error
    if not copy:
        return command, lambda: prepare_runtime_dir(runtime_dir)
    descriptor = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)

    def put_back() -> None:
        prepare_runtime_dir(runtime_dir)
        restore_copy(copy, descriptor)

    return [*command[:-1], copy], put_back


async def _serve(held: Held, options: DaemonOptions, environ: dict[str, str]) -> int:
    config, events = held.config, held.events
    runtime = runtime_info()
    clock = SystemClock()
    reaper = Reaper(clock)
    reaper.start()
    outputs = OutputFollower(Path(config.runtime_dir, "output"), clock)
    command, put_back = _lasting_command(config.runtime_dir)
    pool = WorkerPool(
        command=command,
        put_back=put_back,
        listener=held.listener,
        runtime_dir=config.runtime_dir,
        settings=worker_settings(config.proxy),
        count=worker_count(config.proxy.workers),
        reaper=reaper,
        record=events.record,
        on_change=lambda: supervisor.save_soon(),
        attached={worker.index: worker for worker in held.workers},
    )
    manager = ServiceManager(environ, events)
    supervisor = Supervisor(config, options, runtime, Machinery(reaper, outputs, events, pool, manager), environ)
    supervisor.listen_to_signals()
    listen_for_reload(supervisor)
    manager.follow(supervisor.fleet)
    events.record("daemon starting", {"pid": os.getpid(), "version": runtime.version, "digest": runtime.digest})
    server: ControlServer | None = None
    failure: DaemonFailed | None = None
    adopted: Adopted | None = None
    try:
        adopted = take_over(supervisor, held.recorded)
        outputs.delete_others(supervisor.known_instances())
        pool.begin_after(max((worker.generation for worker in held.workers), default=0))
        pool.announce(*supervisor.fleet.route())
        request = bootstrap_request(supervisor)
        if request is not None and not held.workers and supervisor.fleet.active is None:
            pool.withhold()
        await pool.start()
        await repair(supervisor, adopted)
        await bootstrap(supervisor, request)
        if not supervisor.fleet.is_shutting_down:
            server = ControlServer(
                config.control.path,
                config.control.mode,
                config.control.owner,
                config.control.group,
                command_handler(supervisor),
            )
            await server.start()
            events.record("daemon ready", {"control": config.control.path, "port": config.proxy.port})
            manager.ready()
            for name in delete_unused_copies(config.runtime_dir):
                events.record("old copy deleted", {"name": name})
            # Everything that is there now stays; the collector need not look at it again.
            gc.freeze()
        await supervisor.ended.wait()
    except TimeoutError:
        log = Path(config.runtime_dir, "workers.log")
        failure = DaemonFailed(f"the proxy workers did not start; what they say is in {log}")
    except SocketInUse as error:
        failure = DaemonFailed(str(error), _REFUSED)
    except DaemonFailed as error:
        failure = error
    except OSError as error:
        failure = DaemonFailed(f"control socket {config.control.path}: {error.strerror or error}")
    if failure is not None:
        events.record("daemon failed", {"error": str(failure)})
        if (adopted is None or adopted.alive) and not supervisor.fleet.is_shutting_down:
            # What an earlier daemon left serves without us, and goes on doing so: only we have failed.
            events.record("left as it is", {"processes": adopted.alive if adopted is not None else []})
            if adopted is not None:
                supervisor.save_now()
            raise failure
    await supervisor.begin_shutdown()
    # Whoever waits for the shutdown's answer may start the next daemon at once: nothing may be held any more.
    if server is not None:
        server.stop_listening()
    held.lock.release()
    supervisor.released.set()
    if server is not None:
        await server.close(_ANSWER_GRACE_SECONDS)
    outputs.close()
    if failure is not None:
        raise failure
    return 0
