"""The supervisor: puts the rooms together, keeps the state file, starts and ends."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rollbridge.config.load import load_config
from rollbridge.config.model import Config
from rollbridge.daemon.events import EventLog, format_utc
from rollbridge.daemon.intent import Intent, intent_now
from rollbridge.daemon.kill_after import kill_after
from rollbridge.daemon.options import DaemonOptions
from rollbridge.daemon.service_manager import ServiceManager
from rollbridge.daemon.snapshot import Document, bootstrap_status, fleet_state, fleet_status, proxy_status
from rollbridge.daemon.state_file import State, encode_state, write_state
from rollbridge.daemon.worker_start import worker_settings
from rollbridge.daemon.workers import WorkerPool
from rollbridge.process.clock import SystemClock
from rollbridge.process.linux import trim_heap
from rollbridge.process.managed import ManagedProcess, ProcessSpec
from rollbridge.process.output import OutputFollower
from rollbridge.process.reaper import Reaper
from rollbridge.process.recognition import is_living
from rollbridge.process.table import scan_processes
from rollbridge.release.fleet import Fleet, Surroundings
from rollbridge.release.operations import begin_ending, kill_everything, stop_everything
from rollbridge.runtime import RuntimeInfo

if TYPE_CHECKING:
    from rollbridge.daemon.log_stream import Missed
    from rollbridge.daemon.succession import Succession

_SAVE_PAUSE_SECONDS: Final = 0.02  # changes that come together are written together
_SAVE_EVERY_SECONDS: Final = 5.0  # counters and output offsets that change all the time
_SAVE_RETRY_SECONDS: Final = 5.0  # a full disk does not get better faster than that
_TIDY_SECONDS: Final = 0.5  # after the answer, when the old release has usually gone too


@dataclass(frozen=True, slots=True)
class Machinery:
    """What was prepared before the supervisor: each holds something that must exist once."""

    reaper: Reaper
    outputs: OutputFollower
    events: EventLog
    pool: WorkerPool
    manager: ServiceManager


class Supervisor:
    """One application's daemon, from the first worker to the last state file."""

    def __init__(
        self,
        config: Config,
        options: DaemonOptions,
        runtime: RuntimeInfo,
        machinery: Machinery,
        environ: Mapping[str, str],
    ) -> None:
        self.options = options
        self.runtime = runtime
        self.machinery = machinery
        self.started_at = time.time()
        self.ended = asyncio.Event()  # all that ran is stopped, the last state is written
        self.released = asyncio.Event()  # what a next daemon needs is given back as well
        self.orphans: list[Mapping[str, object]] = []
        self.intent = Intent.SERVE
        self.on_reload: Callable[[], None] = lambda: None
        self.missed: Missed | None = None  # for a while after an upgrade
        self.succession: Succession  # set once there is a lock and a control socket to hand on
        self._environ = environ
        self._save_handle: asyncio.TimerHandle | None = None
        self._is_final = False
        self.save_error: str | None = None  # why the state file could not be written last
        self._shutdown: asyncio.Task[None] | None = None
        self._signals = 0
        self.fleet = Fleet(
            config,
            Surroundings(
                read_config=self._read_config,
                create_process=self._create_process,
                record=machinery.events.record,
                save=self.save_soon,
                save_now=self.save_now,
                utc=time.time,
                clock=time.monotonic,
                environ=environ,
                traffic=machinery.pool,
                passed=kill_after(environ),
            ),
        )

    def _read_config(self) -> Config:
        return load_config(self.fleet.config.source_path, self._environ)

    def _create_process(self, spec: ProcessSpec) -> ManagedProcess:
        return ManagedProcess(
            spec,
            reaper=self.machinery.reaper,
            outputs=self.machinery.outputs,
            clock=SystemClock(),
            on_event=self.machinery.events.record,
            on_change=self.fleet.process_changed,
            is_probation=True,
            before_start=self.save_now,
        )

    def adopt_process(self, spec: ProcessSpec, record: Mapping[str, object]) -> ManagedProcess:
        """Take over the process that ``record`` describes; raise ValueError when it describes none."""
        return ManagedProcess.adopt(
            spec,
            record,
            reaper=self.machinery.reaper,
            outputs=self.machinery.outputs,
            clock=SystemClock(),
            on_event=self.machinery.events.record,
            on_change=self.fleet.process_changed,
            is_probation=True,
            before_start=self.save_now,
        )

    def keep_orphan(self, record: Mapping[str, object], why: str) -> None:
        """Keep account of a recorded process that lives and that nothing here manages; forget it once it is gone."""
        if is_living(record):
            kept = ("id", "release_id", "instance", "pid", "start_ticks", "boot_id")
            self.orphans.append({key: record.get(key) for key in kept})
            self.machinery.events.record(
                "orphan found", {"process": record.get("id"), "pid": record.get("pid"), "why": why}
            )

    def known_instances(self) -> set[str]:
        """Return the ids of all processes that are managed, or at least kept account of."""
        managed = {process.spec.instance_id for process in self.fleet.all_processes()}
        return managed | {str(orphan.get("id")) for orphan in self.orphans}

    def status(self) -> Document:
        """Return the document of ``status --json`` (design, section 5)."""
        config = self.fleet.config
        return {
            "application": config.application,
            "version": self.runtime.version,
            "daemon": {
                "pid": os.getpid(),
                "started_at": format_utc(self.started_at),
                "runtime": {
                    "version": self.runtime.version,
                    "digest": self.runtime.digest,
                    "path": self.runtime.path,
                },
                "bootstrap": bootstrap_status(self.options),
                "is_shutting_down": self.fleet.is_shutting_down,
            },
            "proxy": proxy_status(config, self.machinery.pool),
            "control": {"path": config.control.path},
            "state_path": config.state_path,
            "state_error": self.save_error,
            "orphans": [dict(orphan) for orphan in self.orphans],
            **fleet_status(self.fleet, self.machinery.pool, scan_processes()),
        }

    # The state file

    def save_soon(self) -> None:
        """Write the state file in a moment; many calls together write once."""
        self._schedule_save(_SAVE_PAUSE_SECONDS)

    def _schedule_save(self, delay: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        if self._is_final or (self._save_handle is not None and self._save_handle.when() <= due):
            return
        if self._save_handle is not None:
            self._save_handle.cancel()
        self._save_handle = loop.call_later(delay, self._save)

    def _save(self) -> None:
        self._save_handle = None
        self._schedule_save(_SAVE_EVERY_SECONDS if self.save_now() else _SAVE_RETRY_SECONDS)

    def save_now(self) -> bool:
        """Write the state file; return whether that went well. A failure is an event, once, and so is its end."""
        self.intent = intent_now(self.intent, self.fleet.active is not None)
        state: State = {
            "application": self.fleet.config.application,
            "written_at": format_utc(time.time()),
            "boot_id": self.machinery.reaper.boot_id,
            "daemon_pid": os.getpid(),
            "bootstrap": bootstrap_status(self.options),
            "intent": self.intent.value,
            **fleet_state(self.fleet, self.machinery.pool),
            "orphans": self.orphans,
        }
        path = self.fleet.config.state_path
        try:
            write_state(path, encode_state(state, self.machinery.events.encoded()))
        except OSError as error:
            if self.save_error is None:
                self.machinery.events.record("state file not written", {"path": path, "error": str(error)})
            self.save_error = error.strerror or str(error)
            return False
        if self.save_error is not None:
            self.save_error = None
            self.machinery.events.record("state file written again", {"path": path})
        return True

    # The end

    def listen_to_signals(self) -> None:
        """SIGTERM, SIGINT and SIGQUIT shut down; a second one does not wait for anybody's graceful end.

        SIGHUP calls ``on_reload``.
        """
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(signum, self._on_signal, signum)
        # What other programs take for "reopen your logs" is no reason to take the application down: by default each of
        # these ends a process on the spot, with nothing stopped. A closed terminal makes us reload, which harms nobody.
        for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
            loop.add_signal_handler(signum, lambda: None)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_hangup(self) -> None:
        self.machinery.events.record("signal received", {"signal": signal.SIGHUP.name})
        self.on_reload()

    def _on_signal(self, signum: int) -> None:
        self._signals += 1
        self.machinery.events.record("signal received", {"signal": signal.Signals(signum).name})
        shutdown = self.begin_shutdown()
        if self._signals > 1 and not shutdown.done():
            self.machinery.events.record("shutdown forced", {})
            self._killing = asyncio.create_task(kill_everything(self.fleet))

    def begin_shutdown(self) -> asyncio.Task[None]:
        """Start the shutdown, or return the one that runs."""
        if self._shutdown is None:
            self._shutdown = asyncio.create_task(self._shut_down(), name="shutdown")
        return self._shutdown

    async def _shut_down(self) -> None:
        """Stop taking requests, let those in flight end, stop everything, write the last state."""
        proxy = self.fleet.config.proxy
        self.machinery.events.record("shutting down", {})
        begin_ending(self.fleet)
        try:
            await self.machinery.pool.stop(min(proxy.drain_timeout_seconds, proxy.force_stop_timeout_seconds))
            await stop_everything(self.fleet)
            self.machinery.events.record("shut down", {})
            if self._save_handle is not None:
                self._save_handle.cancel()
            self._is_final = True
            self.save_now()
        finally:
            self.ended.set()  # a defect of ours must not leave a daemon that never ends

    def tidy_soon(self) -> None:
        """Give back the memory that a deploy took: after hundreds of them the daemon is as small as after the first."""
        asyncio.get_running_loop().call_later(_TIDY_SECONDS, _tidy)

    def adopt_settings(self) -> None:
        """Give the workers the proxy settings of a config that was just adopted."""
        self.machinery.pool.reconfigure(worker_settings(self.fleet.config.proxy))


def _tidy() -> None:
    # A finished operation leaves garbage in cycles (tasks, tracebacks), and holes in the heap from process tables and
    # state files: neither goes away by itself while little else happens. Takes a few milliseconds.
    gc.collect()
    trim_heap()
