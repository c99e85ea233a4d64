"""The control socket's client: blocking, one connection, no event loop; what went wrong is said in a sentence."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final

from rollbridge.control.protocol import (
    FAILED,
    MAX_ANSWER_BYTES,
    MAX_REQUEST_BYTES,
    REFUSED,
    BadMessage,
    LineReader,
    Peer,
    decode,
    encode,
)

NO_DAEMON: Final = 3
# How long a full backlog may stay full before the daemon counts as stuck.
CONNECT_SECONDS: Final = 5.0
# How long a daemon may take for what it answers at once, on a machine that is busy with a deploy.
ANSWER_SECONDS: Final = 15.0
_TICK_SECONDS: Final = 0.1
_RETRY_SECONDS: Final = 0.02
_RECEIVE_BYTES: Final = 262144
_PEERCRED = struct.Struct("iii")

OnProgress = Callable[[dict[str, object]], None]


class ControlError(Exception):
    """The daemon could not be asked, or did not do what it was asked; ``exit_code`` as documented."""

    exit_code = FAILED

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.data: dict[str, object] = {}


class NoDaemon(ControlError):
    """Nobody answers."""

    exit_code = NO_DAEMON


class DaemonSilent(NoDaemon):
    """Somebody holds the socket and does not answer: stuck, stopped, or far too busy."""


class DaemonWentAway(NoDaemon):
    """The connection ended before the answer; what was asked may or may not have been done."""


class ControlRefused(ControlError):
    """The socket may not be used, or must not be trusted."""

    exit_code = REFUSED


class AskAgain(ControlRefused):
    """The daemon went on as other code before it had begun with the request: it may be made again at once."""


class CommandFailed(ControlError):
    """the daemon answered with an error; ``data`` is the rest of its answer."""

    def __init__(self, message: str, exit_code: int, data: dict[str, object]) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.data = data


class ControlClient:
    """One connection to the daemon at ``path``; connects on entering, closes on leaving.

    ``owner`` is the configured owner of the socket (name or number), whose daemon is trusted besides root's and
    our own. ``server`` tells who answers.
    """

    def __init__(self, path: str, owner: str | None = None, connect_seconds: float = CONNECT_SECONDS) -> None:
        self.path = path
        self._trusted = {0, os.geteuid(), *_uid_of(owner)}
        self._connect_seconds = connect_seconds
        self._connection: socket.socket | None = None
        self._lines = LineReader(MAX_ANSWER_BYTES)
        self.server = Peer(0, 0, 0)

    def __enter__(self) -> ControlClient:
        self._connection = self._connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def request(
        self,
        command: Mapping[str, object],
        on_progress: OnProgress | None = None,
        timeout: float | None = ANSWER_SECONDS,
        on_tick: Callable[[], None] | None = None,
    ) -> dict[str, object]:
        """Ask and return the final answer, ``status`` "success".

        ``timeout`` is how many seconds the daemon may be silent, None for ever; ``on_tick`` is called about ten
        times a second while waiting. Raises CommandFailed when the answer is an error, NoDaemon and its kin when
        there is none.
        """
        name = str(command.get("command"))
        line = encode(command)
        if len(line) > MAX_REQUEST_BYTES:
            raise CommandFailed(f"the request is {len(line)} bytes long; the limit is {MAX_REQUEST_BYTES}.", FAILED, {})
        # A daemon that refuses the connection answers without reading: the answer is there though the request is not.
        with contextlib.suppress(BrokenPipeError):
            self._send(line, name)
        while True:
            message = self._next_message(name, timeout, on_tick)
            progress = message.get("progress")
            if isinstance(progress, dict):
                if on_progress is not None:
                    on_progress(progress)
            elif message.get("status") == "success":
                return message
            else:
                raise _failure(message)

    def wait_closed(self, timeout: float) -> bool:
        """Wait until the daemon has closed the connection and its process has ended; False when it takes longer."""
        deadline = time.monotonic() + timeout
        try:
            descriptor = os.pidfd_open(self.server.pid)
        except OSError:  # gone, or in another pid namespace: its end of the connection must do
            descriptor = os.dup(self._connected().fileno())
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(max(deadline - time.monotonic(), 0) * 1000))
        finally:
            os.close(descriptor)

    def _connected(self) -> socket.socket:
        assert self._connection is not None, "used outside of its with block"
        return self._connection

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + self._connect_seconds
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.setblocking(False)
            while True:
                try:
                    connection.connect(self.path)
                    break
                except BlockingIOError:  # its backlog is full
                    if time.monotonic() > deadline:
                        raise DaemonSilent(_silent(self.path, self._connect_seconds)) from None
                    time.sleep(_RETRY_SECONDS)
            connection.setblocking(True)
            self.server = Peer(
                *_PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
            )
            if self.server.uid not in self._trusted:
                raise ControlRefused(
                    f"control socket {self.path} is served by user {_user_name(self.server.uid)} (pid "
                    f"{self.server.pid}), who is neither root, nor you, nor control.owner. Nothing was sent. If that "
                    f"is your daemon, set control.owner to its user or run this command as that user."
                )
        except OSError as error:
            connection.close()
            raise _not_reached(self.path, error) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _send(self, line: bytes, name: str) -> None:
        connection = self._connected()
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.sendall(line)
        except TimeoutError:
            raise DaemonSilent(_silent(self.path, ANSWER_SECONDS)) from None
        except ConnectionResetError as error:
            raise DaemonWentAway(_went_away(name)) from error

    def _next_message(self, name: str, timeout: float | None, on_tick: Callable[[], None] | None) -> dict[str, object]:
        """Return the daemon's next message, progress or answer."""
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while (line := self._lines.next_line()) is None:
                data = self._receive(name, on_tick)
                if data is not None:
                    self._lines.feed(data)
                elif deadline is not None and time.monotonic() > deadline:
                    raise DaemonSilent(_silent(self.path, timeout or 0))
            return decode(line)
        except BadMessage as error:
            raise ControlError(f"the answer at {self.path} is not rollbridge's: {error}.") from error

    def _receive(self, name: str, on_tick: Callable[[], None] | None) -> bytes | None:
        """Return what the daemon has sent, None when there was nothing for a moment."""
        connection = self._connected()
        connection.settimeout(_TICK_SECONDS)
        try:
            data = connection.recv(_RECEIVE_BYTES)
        except TimeoutError:
            if on_tick is not None:
                on_tick()
            return None
        except ConnectionResetError as error:
            raise DaemonWentAway(_went_away(name)) from error
        if not data:
            raise DaemonWentAway(_went_away(name))
        return data


def _failure(answer: dict[str, object]) -> CommandFailed | AskAgain:
    if answer.get("again") is True:
        return AskAgain(str(answer.get("error")))
    exit_code = answer.get("exit_code")
    message = answer.get("error")
    data = {key: value for key, value in answer.items() if key not in ("status", "error", "exit_code")}
    return CommandFailed(
        message if isinstance(message, str) and message else "the daemon answered with an error it does not explain.",
        exit_code if type(exit_code) is int and 0 < exit_code < 256 else FAILED,
        data,
    )


def _not_reached(path: str, error: OSError) -> ControlError:
    if isinstance(error, FileNotFoundError):
        return NoDaemon(
            f"no daemon runs: there is no control socket at {path}. Start one with `rollbridge ensure-daemon`."
        )
    if isinstance(error, ConnectionRefusedError):
        return NoDaemon(
            f"no daemon answers: nobody listens on control socket {path} any more. Start one with "
            f"`rollbridge ensure-daemon`."
        )
    if isinstance(error, PermissionError):
        return ControlRefused(
            f"user {_user_name(os.geteuid())} may not use control socket {path}. Run this as its owner or as a "
            f"member of its group, or widen control.mode."
        )
    return ControlError(f"control socket {path} cannot be used: {error.strerror or error}.")


def _silent(path: str, seconds: float) -> str:
    return (
        f"the daemon does not answer: control socket {path} accepts, but was silent for {seconds:g} s. It may be "
        f"stopped or stuck; see its log, and `ps` for its pid."
    )


def _went_away(name: str) -> str:
    return (
        f"the daemon went away before it answered `{name}`. Run `rollbridge status` to see what it did; its log "
        f"tells why."
    )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _uid_of(owner: str | None) -> tuple[int, ...]:
    """Return the uid of the configured owner; nothing when there is none, or nobody of that name."""
    if owner is None:
        return ()
    if owner.isdecimal():
        return (int(owner),)
    try:
        return (pwd.getpwnam(owner).pw_uid,)
    except KeyError:
        return ()
