"""The daemon's one place that waits for children: its own, and every orphan that falls to it.

Only this module calls waitpid. A zombie is looked at first (waitid with WNOWAIT) and then waited for by its own
pid, so no exit code is taken from under the one who waits for it, and a pid stays reserved until we know whose it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rollbridge.process.accounts import Entry
from rollbridge.process.clock import Clock
from rollbridge.process.control_groups import ControlGroups
from rollbridge.process.entering import LONGEST_REPORT_BYTES, explain_report, spawn_through
from rollbridge.process.exits import ExitStatus as ExitStatus
from rollbridge.process.identity import (
    ProcessIdentity,
    is_alive,
    open_pidfd,
    read_boot_id,
    read_parent,
    read_start_ticks,
    signal_identity,
)
from rollbridge.process.linux import become_subreaper
from rollbridge.process.spawning import StartFailed as StartFailed
from rollbridge.process.spawning import normalise_signals, spawn
from rollbridge.process.table import ProcessRow, ProcessTable, scan_processes
from rollbridge.process.tree import DETACHED, INSTANCE_VARIABLE, Instance, find_members

REAP_BATCH = 256  # zombies per turn of the loop; a fork storm must not keep the loop from its other work
UNCLAIMED_KEPT = 256  # exits of children nobody watches (yet), for an adoption that comes a moment later
FALLBACK_POLL_SECONDS = (
    0.5  # where no pidfd can be had (old kernel, sandbox), an adopted process is looked at this often
)


@dataclass(frozen=True, slots=True)
class Child:
    """A process whose end is awaited: ``exit`` resolves when it was reaped, or seen to be gone."""

    identity: ProcessIdentity
    exit: asyncio.Future[ExitStatus]
    is_own: bool  # our child: its pid cannot be reused before ``exit`` is done, and its exit code will be known
    begun: asyncio.Future[str | None] | None = None  # why its program could not be started, None: it was, or it ended


@dataclass(frozen=True, slots=True)
class HookResult:
    """How a bounded short command ended; ``error`` is None exactly when it exited with 0."""

    status: ExitStatus | None
    error: str | None


class Reaper:
    """One per daemon; ``start`` it on the running loop before anything is spawned."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.boot_id = read_boot_id()
        self._exits: dict[int, asyncio.Future[ExitStatus]] = {}
        self._unclaimed: OrderedDict[tuple[int, int], ExitStatus] = OrderedDict()
        self._protected: set[int] = set()
        self.groups = ControlGroups()
        self._table: ProcessTable | None = None
        self._table_time = 0.0
        self.reaped_orphans = 0  # zombies that were nobody's: descendants of managed processes

    def start(self) -> None:
        """Become subreaper, take SIGCHLD, and reap what is already there."""
        self.become_subreaper()
        normalise_signals()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self.reap)
        loop.call_soon(self.reap)

    def close(self) -> None:
        """Let go of SIGCHLD; only for the end of the daemon and of tests."""
        asyncio.get_running_loop().remove_signal_handler(signal.SIGCHLD)

    def become_subreaper(self) -> None:
        become_subreaper()

    def protect(self, pid: int) -> None:
        """Keep ``pid`` (a proxy worker) out of every process tree, whatever its environment says."""
        self._protected.add(pid)

    def unprotect(self, pid: int) -> None:
        self._protected.discard(pid)

    def reap(self) -> None:
        """Wait for every zombie there is; exits of watched children resolve their futures."""
        for _ in range(REAP_BATCH):
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            self._reap_one(found.si_pid)
        asyncio.get_running_loop().call_soon(self.reap)

    def _reap_one(self, pid: int) -> None:
        start_ticks = read_start_ticks(pid) if pid not in self._exits else None
        _, wait_status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(wait_status)
        status = ExitStatus(code, None) if code >= 0 else ExitStatus(None, -code)
        future = self._exits.pop(pid, None)
        if future is not None:
            if not future.done():
                future.set_result(status)
            return
        self.reaped_orphans += 1
        if start_ticks is not None:
            self._unclaimed[(pid, start_ticks)] = status
            while len(self._unclaimed) > UNCLAIMED_KEPT:
                self._unclaimed.popitem(last=False)

    def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None,
        env: Mapping[str, str] | None,
        stdout: int,
        stderr: int,
        pass_fds: Sequence[int] = (),
        is_path_secret: bool = False,
        entry: Entry | None = None,
    ) -> Child:
        """Start ``argv`` in a session of its own, stdin from /dev/null; raise StartFailed.

        Without ``env`` the daemon's own is inherited, less the mark of any instance. No error shows a secret PATH.
        With an ``entry`` that is not plain the program begins a moment later: ``begun`` of the child tells.
        """
        if entry is not None and not entry.is_plain and env is not None:
            pid, reports = spawn_through(entry, argv, cwd=cwd, env=env, stdout=stdout, stderr=stderr)

            def explain(report: bytes) -> str:
                return explain_report(report, entry, argv, cwd, env, is_path_secret=is_path_secret)

            return replace(self._expect_new(pid), begun=self._await_report(reports, explain))
        pid = spawn(
            argv,
            cwd=cwd,
            env=env,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            is_path_secret=is_path_secret,
        )
        return self._expect_new(pid)

    def _expect_new(self, pid: int) -> Child:
        start_ticks = read_start_ticks(pid)
        assert start_ticks is not None, "an unreaped child is always in /proc"
        return self._expect(ProcessIdentity(pid, start_ticks, self.boot_id))

    def _await_report(self, descriptor: int, explain: Callable[[bytes], str]) -> asyncio.Future[str | None]:
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[str | None] = loop.create_future()

        def read() -> None:
            report = os.read(descriptor, LONGEST_REPORT_BYTES)
            loop.remove_reader(descriptor)
            os.close(descriptor)
            begun.set_result(explain(report) if report else None)

        loop.add_reader(descriptor, read)
        return begun

    def _expect(self, identity: ProcessIdentity) -> Child:
        future: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._exits[identity.pid] = future
        return Child(identity, future, is_own=True)

    def watch(self, identity: ProcessIdentity) -> Child:
        """Await the end of a process recorded earlier.

        Our own child after an upgrade in place (same pid, execve) has its exit code known; of anybody else's the end
        is seen through a pidfd and the code stays unknown.
        """
        loop = asyncio.get_running_loop()
        status = self._unclaimed.pop((identity.pid, identity.start_ticks), None)
        is_same = read_start_ticks(identity.pid) == identity.start_ticks and identity.boot_id == self.boot_id
        if status is None and is_same and read_parent(identity.pid) == os.getpid():
            loop.call_soon(self.reap)
            return self._expect(identity)
        future: asyncio.Future[ExitStatus] = loop.create_future()
        child = Child(identity, future, is_own=False)
        if status is not None or not is_alive(identity):
            future.set_result(status or ExitStatus(None, None))
            return child
        try:
            fd = open_pidfd(identity)
        except OSError:
            loop.call_later(FALLBACK_POLL_SECONDS, self._poll, identity, future)
            return child
        if fd is None:
            future.set_result(ExitStatus(None, None))
        else:
            loop.add_reader(fd, self._close_watch, fd, future)
            future.add_done_callback(lambda _: self._close_watch(fd, future))
        return child

    def _close_watch(self, fd: int, future: asyncio.Future[ExitStatus]) -> None:
        if asyncio.get_running_loop().remove_reader(fd):
            os.close(fd)
        if not future.done():
            future.set_result(ExitStatus(None, None))

    def _poll(self, identity: ProcessIdentity, future: asyncio.Future[ExitStatus]) -> None:
        if future.done():
            return
        if is_alive(identity):
            asyncio.get_running_loop().call_later(FALLBACK_POLL_SECONDS, self._poll, identity, future)
        else:
            future.set_result(ExitStatus(None, None))

    async def run_hook(
        self,
        command: str | Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        stdout: int,
        stderr: int,
        timeout_seconds: float,
        on_start: Callable[[int], None] | None = None,
        entry: Entry | None = None,
    ) -> HookResult:
        """Run ``command`` (text: under /bin/sh -c) for ``timeout_seconds`` at most; then its group is killed.

        Never raises for what the command does. Cancelling the call kills the group as well.
        ``on_start`` is called with the pid.
        """
        try:
            argv = ("/bin/sh", "-c", command) if isinstance(command, str) else command
            child = self.spawn(argv, cwd=cwd, env=env, stdout=stdout, stderr=stderr, entry=entry)
        except StartFailed as error:
            return HookResult(None, str(error))
        if on_start is not None:
            on_start(child.identity.pid)
        try:
            await asyncio.wait((child.exit,), timeout=timeout_seconds)
        finally:
            if not child.exit.done():
                # Unreaped, so the number is certainly its group.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.identity.pid, signal.SIGKILL)
        if not child.exit.done():
            await child.exit
            return HookResult(child.exit.result(), f"did not finish within {timeout_seconds:g} s and was killed")
        status = child.exit.result()
        failure = None if child.begun is None else await child.begun
        if failure is not None:
            return HookResult(None, failure)
        if status.code == 0:
            return HookResult(status, None)
        what = f"exited with code {status.code}" if status.signal is None else f"was ended by {status.signal_name}"
        return HookResult(status, what)

    def table(self, max_age_seconds: float = 0.0) -> ProcessTable:
        """The process table, not older than ``max_age_seconds``; looks are shared by all who ask."""
        now = self._clock.monotonic()
        if self._table is None or now - self._table_time > max_age_seconds or max_age_seconds <= 0:
            self._table = scan_processes()
            self._table_time = now
        return self._table

    def members(
        self,
        instance: Instance,
        table: ProcessTable,
        *,
        known: Mapping[int, int] | None = None,
        hook_session: int | None = None,
    ) -> list[ProcessRow]:
        """Living members of ``instance`` in ``table``; see tree.py for the rules."""
        return find_members(
            table,
            instance,
            daemon_pid=os.getpid(),
            protected=self._protected,
            known=known,
            hook_session=hook_session,
        )

    def group_members(self, path: Path, table: ProcessTable) -> list[ProcessRow]:
        """Living processes of a control group in ``table``, but for us, what we protect, and what was detached."""
        outsiders = {os.getpid(), *self._protected}
        rows = [table.rows[pid] for pid in self.groups.members(path) - outsiders if pid in table.rows]
        return [row for row in rows if table.mark(row.pid, INSTANCE_VARIABLE) != DETACHED]

    def signal_member(self, identity: ProcessIdentity, signum: int) -> bool:
        """Signal one member of a tree through its pidfd; False when it is gone, protected, or not ours to signal."""
        if identity.pid in self._protected:
            return False
        try:
            return signal_identity(identity, signum)
        except OSError:
            return False
