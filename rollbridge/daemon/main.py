"""``rollbridge daemon``: from the command line to a supervisor that serves, and to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rollbridge.config.issues import ConfigError
from rollbridge.config.load import load_config
from rollbridge.control.listening import ControlSocketError
from rollbridge.control.server import ControlServer, SocketInUse
from rollbridge.daemon.adoption import Adopted, repair, take_over
from rollbridge.daemon.bootstrap import bootstrap, bootstrap_request
from rollbridge.daemon.code_copies import delete_unused_copies
from rollbridge.daemon.commands import command_handler
from rollbridge.daemon.errors import DaemonFailed
from rollbridge.daemon.events import EventLog
from rollbridge.daemon.handover import Continuation
from rollbridge.daemon.holding import Held, hold, prepare_code
from rollbridge.daemon.log_stream import Missed
from rollbridge.daemon.options import DaemonOptions
from rollbridge.daemon.pid_file import pid_file, remove_pid_file
from rollbridge.daemon.reloading import listen_for_reload
from rollbridge.daemon.service_manager import ServiceManager, failure_told
from rollbridge.daemon.succession import Succession
from rollbridge.daemon.supervisor import Machinery, Supervisor
from rollbridge.daemon.worker_start import WorkerStarter, worker_count, worker_settings
from rollbridge.daemon.workers import WorkerPool
from rollbridge.process.clock import SystemClock
from rollbridge.process.output import OutputFollower
from rollbridge.process.reaper import Reaper
from rollbridge.runtime import runtime_info

_REFUSED: Final = 4
_COME_BACK_SECONDS: Final = 10.0  # for those who watch to come back after an upgrade; they do so at once
_ANSWER_GRACE_SECONDS: Final = 2.0  # for a client to read the answer of its shutdown


def run_daemon(config_path: str, options: DaemonOptions, continuation: Continuation | None = None) -> int:
    """Run in the foreground until shut down; return the exit code.

    With a ``continuation`` this process has been the daemon already, as other code. Raises ConfigError for a broken
    config, DaemonFailed for everything that keeps the daemon from starting.
    """
    environ = dict(os.environ)
    with failure_told(environ, ConfigError, DaemonFailed):
        config = load_config(config_path, environ)
        events = EventLog(sys.stderr.fileno(), time.time, Path(config.runtime_dir, "daemon.log"))
        with hold(config, events, environ, continuation) as held, _pid_file(options.pid_path):
            return asyncio.run(_Service(held, options, environ, continuation).run())


@contextlib.contextmanager
def _pid_file(path: str | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(pid_file(path))
        except OSError as error:
            raise DaemonFailed(f"pid file {path}: {error.strerror}") from error
        yield


class _Service:
    """One daemon from its first worker to its end; made outside of the loop, run on it."""

    def __init__(
        self, held: Held, options: DaemonOptions, environ: dict[str, str], continuation: Continuation | None
    ) -> None:
        self.held = held
        self.options = options
        self.environ = environ
        self.continuation = continuation
        self.server: ControlServer | None = None
        self.adopted: Adopted | None = None

    async def run(self) -> int:
        self._assemble()
        supervisor, events = self.supervisor, self.held.events
        failure: DaemonFailed | None = None
        try:
            await self._start()
            await supervisor.ended.wait()
        except DaemonFailed as error:
            failure = error
            events.record("daemon failed", {"error": str(failure)})
            self._leave_as_it_is(failure)
        except Exception as error:
            # A defect of ours, and the code before us may not have it.
            self._go_back(f"{type(error).__name__}: {error}")
            raise
        await supervisor.begin_shutdown()
        # Whoever waits for the shutdown's answer may start the next daemon at once: nothing may be held any more.
        if self.server is not None:
            self.server.stop_listening()
        elif self.continuation is not None:
            self.continuation.drop_control()
        self.held.lock.release()
        supervisor.released.set()
        if self.server is not None:
            await self.server.close(_ANSWER_GRACE_SECONDS)
        self.outputs.close()
        if failure is not None:
            raise failure
        return 0

    def _assemble(self) -> None:
        """Put everything together; nothing is started yet, and signals are obeyed from here on."""
        held, config, events = self.held, self.held.config, self.held.events
        runtime = runtime_info()
        clock = SystemClock()
        reaper = Reaper(clock)
        self.outputs = OutputFollower(Path(config.runtime_dir, "output"), clock)
        command, put_back = prepare_code(config.runtime_dir)
        self.pool = WorkerPool(
            starter=WorkerStarter(command.argv, runtime.digest, put_back, held.listener, config.runtime_dir, reaper),
            settings=worker_settings(config.proxy),
            count=worker_count(config.proxy.workers),
            record=events.record,
            on_change=lambda: self.supervisor.save_soon(),
            attached=held.workers,
        )
        self.manager = ServiceManager(self.environ, events)
        machinery = Machinery(reaper, self.outputs, events, self.pool, self.manager)
        self.supervisor = Supervisor(config, self.options, runtime, machinery, self.environ)
        self.succession = self.supervisor.succession = Succession(
            self.supervisor, held.lock, command.argv, lambda: remove_pid_file(self.options.pid_path)
        )
        if self.continuation is not None:
            self.supervisor.missed = Missed(events, self.outputs)
        self.supervisor.listen_to_signals()
        listen_for_reload(self.supervisor)
        reaper.start()  # lets in the signals that were held back while we had no handlers for them
        self.manager.follow(self.supervisor.fleet)
        events.record("daemon starting", {"pid": os.getpid(), "version": runtime.version, "digest": runtime.digest})

    async def _start(self) -> None:
        """Take over what lives, bring up what was asked for, then serve; raise DaemonFailed."""
        config = self.held.config
        try:
            await self._take_over()
            if not self.supervisor.fleet.is_shutting_down:
                await self._listen()
        except TimeoutError as error:
            log = Path(config.runtime_dir, "workers.log")
            raise DaemonFailed(f"the proxy workers did not start; what they say is in {log}") from error
        except ControlSocketError as error:
            raise DaemonFailed(str(error), _REFUSED if isinstance(error, SocketInUse) else 1) from error
        except OSError as error:
            what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
            raise DaemonFailed(f"the daemon cannot start: {what}. Mend that, and start it again") from error

    async def _take_over(self) -> None:
        held, supervisor, pool = self.held, self.supervisor, self.pool
        self.adopted = take_over(supervisor, held.recorded)
        self.outputs.delete_others(supervisor.known_instances())
        pool.begin_after(max((worker.generation for worker in held.workers), default=0))
        pool.announce(*supervisor.fleet.route())
        # What the command line asks for was brought up when this process began.
        request = bootstrap_request(supervisor) if self.continuation is None else None
        if request is not None and not held.workers and supervisor.fleet.active is None:
            pool.withhold()
        if self.continuation is not None:
            self.continuation.tell("the proxy workers are replaced")
        await pool.start()
        await repair(supervisor, self.adopted)
        await bootstrap(supervisor, request)

    async def _listen(self) -> None:
        """Offer the control socket: the daemon is up."""
        config, events, supervisor = self.held.config, self.held.events, self.supervisor
        self.server = ControlServer(
            config.control.path,
            config.control.mode,
            config.control.owner,
            config.control.group,
            command_handler(supervisor),
        )
        await self.server.start(self.continuation.control() if self.continuation is not None else None)
        self.succession.server = self.server
        events.record("daemon ready", {"control": config.control.path, "port": config.proxy.port})
        self.manager.ready()
        if self.continuation is not None:
            self.succession.complete(self.continuation)
            asyncio.get_running_loop().call_later(_COME_BACK_SECONDS, self._forget_missed)
        for name in delete_unused_copies(config.runtime_dir):
            events.record("old copy deleted", {"name": name})
        # Everything that is there now stays; the collector need not look at it again.
        gc.freeze()

    def _forget_missed(self) -> None:
        if self.supervisor.missed is not None:
            self.supervisor.missed.forget()
            self.supervisor.missed = None

    def _leave_as_it_is(self, failure: DaemonFailed) -> None:
        """Raise ``failure`` when something was left to us: it serves without us, and only we have failed.

        Let the code before us go on, if there was any.
        """
        adopted, supervisor = self.adopted, self.supervisor
        self._go_back(str(failure))
        if (adopted is None or adopted.alive) and not supervisor.fleet.is_shutting_down:
            self.held.events.record("left as it is", {"processes": adopted.alive if adopted is not None else []})
            if adopted is not None:
                supervisor.save_now()
            raise failure

    def _go_back(self, reason: str) -> None:
        """Continue as the code before us, with what is known now; return when there is none, or a shutdown came."""
        continuation = self.continuation
        if continuation is None or not continuation.can_go_back or self.supervisor.fleet.is_shutting_down:
            return
        if self.adopted is not None:
            self.supervisor.save_now()
        continuation.go_back(reason)
