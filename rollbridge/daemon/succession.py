"""How a running daemon goes on as other code (``rollbridge upgrade``), or gives way to another daemon.

Nothing that runs is touched by either. Until the last step of each the daemon is what it was; a failure leaves it so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from rollbridge.config.reload import handed_on
from rollbridge.control.protocol import CommandError, Peer, ask_again, encode
from rollbridge.daemon.handover import (
    VERSION,
    Code,
    Continuation,
    ControlSocket,
    Handover,
    block_signals,
    go_on_as,
    unblock_signals,
)
from rollbridge.daemon.runtime_dir import RuntimeDirError, prepare_runtime_dir
from rollbridge.daemon.state_file import FORMAT
from rollbridge.daemon.upgrade_check import CheckFailed, Fitness, read_fitness, refuse_other_settings
from rollbridge.process.reaper import Reaper, StartFailed
from rollbridge.proxy.messages import PROTOCOL
from rollbridge.release.errors import BadRequest, OperationFailed, OperationRefused
from rollbridge.runtime import UnsafeDirectory, command_for, copy_file

if TYPE_CHECKING:
    from rollbridge.control.server import ControlServer
    from rollbridge.daemon.lock import DaemonLock
    from rollbridge.daemon.supervisor import Supervisor

_CHECK_SECONDS: Final = 30.0  # importing everything takes half a second; a machine that swaps may need longer
_OUTPUT_BYTES: Final = 65536
# A signal is in our hands some turns of the loop after the kernel has delivered it.
_SIGNAL_TURNS: Final = 4

Tell = Callable[[str, str], None]  # phase and message


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """Which code to go on as: what ``target`` holds when it is a single file, else the package around it.

    ``digest`` is that of the file as whoever asks has read it.
    """

    python: str
    target: str
    is_zipapp: bool
    digest: str


class Succession:
    """What this daemon holds that must not be held twice, and how it is handed on."""

    def __init__(
        self, supervisor: Supervisor, lock: DaemonLock, command: Sequence[str], remove_pid_file: Callable[[], None]
    ) -> None:
        self._supervisor = supervisor
        self._lock = lock
        self._command = tuple(command)  # runs this very code
        self._remove_pid_file = remove_pid_file
        self.server: ControlServer | None = None  # once there is one

    async def upgrade(self, request: UpgradeRequest, wait: bool, tell: Tell) -> dict[str, object]:
        """Go on as other code, which then answers the client; return only when there is nothing to do.

        Raises OperationRefused and OperationFailed; then nothing has changed.
        """
        supervisor = self._supervisor
        fleet = supervisor.fleet
        began = fleet.around.clock()
        async with fleet.exclusive("upgrade", wait=wait):
            ours = supervisor.runtime
            same = {"version": ours.version, "digest": ours.digest, "pid": os.getpid(), "changed": False}
            if request.digest == ours.digest:
                return same
            command = self._prepare(request)
            tell("check", "the new code is checked")
            arguments = supervisor.options.arguments(fleet.config.source_path)
            fitness = await self._check(command, arguments, request.digest)
            tell("handover", f"rollbridge {ours.version} hands over to {fitness.version}")
            previous = Code((*self._command, *arguments), ours.version, ours.digest)
            block_signals()
            try:
                await self._obey_signals()
                supervisor.machinery.events.record(
                    "upgrading", {"version": fitness.version, "digest": fitness.digest, "from": ours.version}
                )
                with contextlib.suppress(OSError):  # it is written on as it was
                    supervisor.machinery.events.reopen()  # the next code finds its log by the name that it has then
                with supervisor.machinery.manager.reloading():
                    self._save("The daemon goes on as it is")
                    if self.server is not None:
                        self.server.dismiss(_farewell)
                    go_on_as([*command, *arguments], self._handover(previous, began))
            except OSError as error:
                raise OperationFailed(
                    f"{command[0]} cannot be run: {error.strerror}. The daemon goes on as it is"
                ) from error
            finally:
                unblock_signals()

    def _prepare(self, request: UpgradeRequest) -> list[str]:
        """Return the command that runs the new code, from a private copy of ours when it is a single file."""
        if not request.is_zipapp:
            return command_for(request.python, request.target)
        runtime_dir = self._supervisor.fleet.config.runtime_dir
        try:
            prepare_runtime_dir(runtime_dir)  # somebody may have emptied it
            copy, digest = copy_file(request.target, runtime_dir)
        except (RuntimeDirError, UnsafeDirectory) as error:
            raise OperationFailed(str(error)) from error
        except OSError as error:
            raise OperationFailed(
                f"{request.target} cannot be copied to {runtime_dir}: {error.strerror}. It must be readable for uid "
                f"{os.geteuid()}, whom the daemon runs as"
            ) from error
        if digest != request.digest:
            raise OperationFailed(f"{request.target} was changed in this moment. Run this again when it is complete")
        return command_for(request.python, copy)

    async def _check(self, command: Sequence[str], arguments: Sequence[str], digest: str) -> Fitness:
        self._save("What runs cannot be handed over")
        standing = f"The daemon goes on as rollbridge {self._supervisor.runtime.version}"
        try:
            fitness = await run_check(self._supervisor.machinery.reaper, [*command, "_upgrade-check", *arguments])
        except CheckFailed as error:
            text = f"the new code must not take over: {error}. {standing}"
            if error.exit_code == 4:
                raise OperationRefused(text) from error
            raise OperationFailed(text) from error
        if fitness.digest != digest:
            raise OperationFailed(f"the new code was changed in this moment. {standing}")
        for what, ours, theirs in (
            ("speak to the workers that run", PROTOCOL, fitness.worker_protocols),
            ("take over from this daemon", VERSION, fitness.handovers),
        ):
            if ours not in theirs:
                raise OperationRefused(
                    f"rollbridge {fitness.version} cannot {what} (version {ours}, it knows "
                    f"{', '.join(map(str, theirs)) or 'none'}). {standing}"
                )
        refuse_other_settings(handed_on(self._supervisor.fleet.config), fitness.settings)
        return fitness

    async def _obey_signals(self) -> None:
        """With signals blocked: let those that have come already have their effect."""
        for _ in range(_SIGNAL_TURNS):
            await asyncio.sleep(0)
        if self._supervisor.fleet.is_shutting_down:
            raise OperationRefused("the daemon is shutting down")

    def _save(self, otherwise: str) -> None:
        if not self._supervisor.save_now():
            path = self._supervisor.fleet.config.state_path
            raise OperationFailed(f"state file {path} cannot be written. {otherwise}; `rollbridge events` tells why")

    def _handover(self, previous: Code, began: float) -> Handover:
        file = self.server.file if self.server is not None else None
        control = None
        if file is not None:
            control = ControlSocket(
                file.listener.fileno(), file.path, file.device, file.inode, file.mode, file.uid, file.gid
            )
        return Handover(
            lock=self._lock.descriptor,
            listener=self._supervisor.machinery.pool.starter.listener.fileno(),
            control=control,
            client=self._client(),
            state_format=FORMAT,
            previous=previous,
            began=began,
        )

    async def give_way(self, settings: Mapping[str, object], wait: bool) -> NoReturn:
        """Leave everything running to another daemon, which has read ``settings`` (``handed_on``), and end at once.

        Raises OperationRefused and OperationFailed; then nothing has changed.
        """
        supervisor = self._supervisor
        refuse_other_settings(handed_on(supervisor.fleet.config), settings)
        async with supervisor.fleet.exclusive("takeover", wait=wait):
            block_signals()
            try:
                await self._obey_signals()
                supervisor.machinery.events.record("giving way", {"pid": os.getpid()})
                self._save("The daemon goes on")
            except BaseException:
                unblock_signals()
                raise
            # From here on nothing is done but leaving: what happens now is for the next daemon to see.
            client = self._client()
            if self.server is not None:
                self.server.stop_listening()
            self._remove_pid_file()
            self._lock.release()
            if client is not None:
                with contextlib.suppress(OSError):  # who asked has left: it sees the lock free all the same
                    os.write(client, encode({"status": "success", "pid": os.getpid()}))
            os._exit(0)

    def complete(self, continuation: Continuation) -> None:
        """The code that was handed over to is up, or the one that it came back to: tell, and answer who asked."""
        supervisor = self._supervisor
        handover, ours = continuation.handover, supervisor.runtime
        events = supervisor.machinery.events
        if handover.previous is None:
            events.record("upgrade failed", {"error": handover.failure, "version": ours.version})
            continuation.finish(
                CommandError(
                    f"the new code did not come up: {handover.failure}. The daemon goes on as rollbridge "
                    f"{ours.version}; nothing was restarted"
                ).answer()
            )
            return
        before = handover.previous
        events.record("upgraded", {"version": ours.version, "digest": ours.digest, "from": before.version})
        continuation.finish(
            {
                "status": "success",
                "changed": True,
                "pid": os.getpid(),
                "version": ours.version,
                "digest": ours.digest,
                "previous_version": before.version,
                "previous_digest": before.digest,
            }
        )

    def _client(self) -> int | None:
        """Return the connection of whoever asked."""
        return self.server.descriptor_of(asyncio.current_task()) if self.server is not None else None


def _farewell(request: Mapping[str, object]) -> Mapping[str, object]:
    """Return the answer to a request that is going on when the daemon continues as other code.

    Only a stop is half done then, and waits for its processes; the rest watches, or waits for its turn.
    """
    if request.get("command") != "stop":
        return ask_again()
    return CommandError(
        "the daemon was upgraded, and the stop goes on in it. `rollbridge status` shows when it is done"
    ).answer()


def refuse_strangers(peer: Peer, what: str) -> None:
    """Raise OperationRefused unless ``peer`` is root or our own user: whoever else may command us must not run code."""
    if peer.uid not in (0, os.geteuid()):
        raise OperationRefused(
            f"{what} chooses code that runs as uid {os.geteuid()}: only root and that user may ask for it, not uid "
            f"{peer.uid}"
        )


async def run_check(reaper: Reaper, argv: Sequence[str]) -> Fitness:
    """Run the check of other code; raise CheckFailed with its reason."""
    if not os.access(argv[0], os.X_OK):
        raise BadRequest(f"python {argv[0]} cannot be run by uid {os.geteuid()}")
    stdout, stderr = (os.memfd_create(f"rollbridge-check-{name}") for name in ("stdout", "stderr"))
    try:
        child = reaper.spawn(argv, cwd="/", env=None, stdout=stdout, stderr=stderr)
        try:
            await asyncio.wait((child.exit,), timeout=_CHECK_SECONDS)
        finally:
            if not child.exit.done():
                os.killpg(child.identity.pid, signal.SIGKILL)  # unreaped, so the number is certainly its group
        if not child.exit.done():
            await child.exit
            raise CheckFailed(f"its check did not end within {_CHECK_SECONDS:g} s")
        return read_fitness(child.exit.result().code, _text(stdout), _text(stderr))
    except StartFailed as error:
        raise CheckFailed(f"its check cannot be started: {error}") from error
    finally:
        os.close(stdout)
        os.close(stderr)


def _text(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, _OUTPUT_BYTES, max(0, size - _OUTPUT_BYTES)).decode("utf-8", "replace")
