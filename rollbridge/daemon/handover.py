"""What one version of the code hands to the next, in the same process: execve keeps the pid and the children.

The daemon's lock, the proxy's port and the control socket go over as open descriptors, so that none of them is free,
or refuses anybody, for a moment; everything else is in the state file. Which descriptor is what stands in a small
document in memory, whose own descriptor is named in the environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, NoReturn

from rollbridge.control.listening import SocketFile, remove_socket_file
from rollbridge.daemon.state_file import FORMAT, write_state

VARIABLE: Final = "ROLLBRIDGE_HANDOVER"
VERSION: Final = 1
VERSIONS: Final = (1,)  # of the documents that this code understands

# What ends or disturbs a process that has no handler for it yet. Blocked from before the last state is written until
# the next code has its handlers: neither lost nor deadly.
_SIGNALS: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGCHLD,  # a child that ends now is the next code's to wait for, or nobody would note its exit code
)
_TELL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Code:
    """One version of the code, and the whole command line that goes on as it."""

    command: tuple[str, ...]
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class ControlSocket:
    """The control socket's descriptor, and the file it is known by."""

    descriptor: int
    path: str
    device: int
    inode: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Handover:
    """``previous`` is what to go back to when the next code does not come up; None on the way back.

    ``client`` is the connection of whoever asked for the upgrade and waits for its answer, ``state_format`` that of the
    state file. ``failure`` is why the code that we come back from did not come up, empty on the way there. ``began`` is
    in monotonic seconds.
    """

    lock: int
    listener: int
    control: ControlSocket | None
    client: int | None
    state_format: int
    previous: Code | None
    began: float
    failure: str = ""
    version: int = VERSION

    @property
    def descriptors(self) -> list[int]:
        found = [self.lock, self.listener, self.client, self.control.descriptor if self.control else None]
        return [descriptor for descriptor in found if descriptor is not None]


def block_signals() -> None:
    """Hold back the signals that we handle; whatever comes is delivered when they are unblocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def go_on_as(command: Sequence[str], handover: Handover) -> NoReturn:
    """Replace this program by ``command``, which gets ``handover``; raise OSError when it cannot be run.

    Every other descriptor but stdin, stdout and stderr is closed by the kernel.
    """
    document = os.memfd_create("rollbridge-handover", os.MFD_CLOEXEC)
    passed = [document, *handover.descriptors]
    try:
        os.write(document, json.dumps(asdict(handover)).encode())
        for descriptor in passed:
            os.set_inheritable(descriptor, True)
        os.execve(command[0], list(command), {**os.environ, VARIABLE: str(document)})
    finally:  # only after a failure
        for descriptor in passed:
            os.set_inheritable(descriptor, False)
        os.close(document)


def receive() -> Handover | None:
    """Return what the code before us handed over, None for an ordinary start; raise ValueError when it is no handover.

    Only once: nothing that we start shall find it.
    """
    name = os.environ.pop(VARIABLE, None)
    if name is None:
        return None
    descriptor = int(name)
    with open(descriptor, "rb") as file:
        file.seek(0)
        shape = json.load(file)
    handover = _read(shape)
    for passed in handover.descriptors:
        os.set_inheritable(passed, False)
    return handover


def _read(shape: Mapping[str, object]) -> Handover:
    if shape.get("version") not in VERSIONS:
        raise ValueError(f"the handover has version {shape.get('version')}, this rollbridge understands {VERSIONS}")
    control, previous = shape.get("control"), shape.get("previous")
    fields = dict(shape)
    fields["control"] = ControlSocket(**control) if isinstance(control, dict) else None
    if isinstance(previous, dict):
        fields["previous"] = Code(tuple(previous["command"]), previous["version"], previous["digest"])
    return Handover(**fields)  # type: ignore[arg-type]  # written by this very dataclass, of the same version


class Continuation:
    """The next code's side of a handover, until it is up: ``succeed``, or ``go_back``."""

    def __init__(self, handover: Handover) -> None:
        self.handover = handover
        self.is_over = False
        self._state: tuple[str, bytes] | None = None
        # What is handed on if we must go back, whatever the daemon closes on its way down.
        duplicate = {descriptor: os.dup(descriptor) for descriptor in handover.descriptors}
        control = handover.control
        self._reserve = replace(
            handover,
            lock=duplicate[handover.lock],
            listener=duplicate[handover.listener],
            control=replace(control, descriptor=duplicate[control.descriptor]) if control else None,
            client=duplicate[handover.client] if handover.client is not None else None,
            previous=None,
        )

    @property
    def can_go_back(self) -> bool:
        return not self.is_over and self.handover.previous is not None

    def keep_state(self, path: str) -> None:
        """Keep the state file as the code before us wrote it, in case it could not read ours; raise OSError.

        When somebody has deleted it in this moment, what lives is looked for, as after a crash.
        """
        with contextlib.suppress(FileNotFoundError):
            self._state = (path, Path(path).read_bytes())

    def listener(self) -> socket.socket:
        """Return the proxy's listening socket."""
        listener = socket.socket(fileno=self.handover.listener)
        listener.setblocking(False)
        return listener

    def control(self) -> SocketFile | None:
        """Return the control socket; whoever has come meanwhile waits in its queue."""
        file = self.handover.control
        if file is None:
            return None
        listener = socket.socket(fileno=file.descriptor)
        listener.setblocking(False)
        return SocketFile(listener, file.path, file.device, file.inode, file.mode, file.uid, file.gid)

    def drop_control(self) -> None:
        """Remove the control socket: a shutdown came before we could offer it again."""
        file = self.control()
        if file is not None:
            remove_socket_file(file)
            file.listener.close()

    def tell(self, message: str) -> None:
        """Report progress to whoever asked for the upgrade."""
        seconds = round(time.monotonic() - self.handover.began, 3)
        self._send({"progress": {"phase": "start", "message": message, "seconds": seconds}})

    def finish(self, answer: Mapping[str, object]) -> None:
        """We are up: answer whoever asked, and let go of what was kept for the way back."""
        self._send(answer)
        self.is_over = True
        if self.handover.client is not None:
            os.close(self.handover.client)
        for descriptor in self._reserve.descriptors:
            os.close(descriptor)

    def go_back(self, reason: str) -> NoReturn:
        """We are not coming up: let the previous code go on; raise OSError when that is not possible any more."""
        previous = self.handover.previous
        assert previous is not None, "there is no way back from the way back"
        block_signals()
        if self._state is not None and self.handover.state_format != FORMAT:
            write_state(*self._state)
        go_on_as(previous.command, replace(self._reserve, failure=" ".join(reason.split()) or "it gave no reason"))

    def _send(self, message: Mapping[str, object]) -> None:
        client = self.handover.client
        if client is None:
            return
        with socket.socket(fileno=os.dup(client)) as connection, contextlib.suppress(OSError):  # it may have left
            connection.settimeout(_TELL_SECONDS)
            connection.sendall(json.dumps(message).encode() + b"\n")
