"""Starts proxy workers: which there are to be, what each is told at its start, where it can be reached."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import string
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rollbridge.config.model import ProxyConfig
from rollbridge.daemon.log_file import bound_file
from rollbridge.daemon.runtime_dir import RuntimeDirError
from rollbridge.process.reaper import Child, Reaper, StartFailed
from rollbridge.proxy.messages import Settings
from rollbridge.runtime import UnsafeDirectory

_WORKERS_LOG_BYTES: Final = 1024 * 1024  # of a worker that dies at its start, again and again, the last will do
_STEADY_SECONDS: Final = 5.0  # a worker that lived so long did not die of its start
_MAX_RESPAWN_DELAY_SECONDS: Final = 5.0
_SOCKET_NAME: Final = re.compile(r"worker-([0-9]+)[a-z]?\.sock")


class WorkerNotStarted(Exception):
    """A worker could not be started; whatever was missing may be there at the next attempt."""


def worker_count(configured: int | None) -> int:
    """Return how many workers to run; None means one per core this process may use."""
    return configured if configured is not None else len(os.sched_getaffinity(0))


def worker_settings(proxy: ProxyConfig) -> Settings:
    """Return what a worker must know of the config."""
    return Settings(
        hold_timeout_seconds=proxy.hold_timeout_seconds,
        head_timeout_seconds=proxy.head_timeout_seconds,
        idle_timeout_seconds=proxy.idle_timeout_seconds,
        response_timeout_seconds=proxy.response_timeout_seconds,
        max_head_bytes=proxy.max_head_bytes,
        max_connections=proxy.max_connections,
        trusted_proxies=tuple(str(network) for network in proxy.trusted_proxies),
        access_log=proxy.access_log,
    )


def respawn_delay(lived_seconds: float, previous_delay: float) -> float:
    """Return how long to wait before a worker that lived ``lived_seconds`` is started again (seconds)."""
    if lived_seconds >= _STEADY_SECONDS:
        return 0.0
    return min(_MAX_RESPAWN_DELAY_SECONDS, max(0.05, previous_delay * 2))


def socket_name(index: int, taken: Collection[str]) -> str:
    """Return a name for the private socket of worker ``index`` that is not among those ``taken``.

    A worker that is replaced keeps its name until its last connection has ended; more than one upgrade may come
    in that time. The names are as short as the limit for socket paths asks for.
    """
    names = (f"worker-{index}{letter}.sock" for letter in ("", *string.ascii_lowercase))
    free = next((name for name in names if name not in taken), None)
    if free is None:
        raise WorkerNotStarted(f"{len(taken)} replaced workers have not ended yet, and no name for another is left")
    return free


def worker_index(name: str) -> int | None:
    """Return which worker serves a socket of that name; None when it is not the name of one."""
    found = _SOCKET_NAME.fullmatch(name)
    return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class WorkerStarter:
    """How to start a worker of this daemon.

    ``command`` runs this very code, whose digest is ``digest``; ``put_back`` restores what that needs of the runtime
    directory if it was emptied, or raises OSError, RuntimeDirError or UnsafeDirectory.
    """

    command: Sequence[str]
    digest: str
    put_back: Callable[[], None]
    listener: socket.socket
    runtime_dir: str
    reaper: Reaper

    def start(self, index: int, taken: Collection[str]) -> tuple[Child, socket.socket, str]:
        """Start worker ``index``; return it, our end of its link, and the path of its private socket.

        ``taken`` are the names of the private sockets of living workers. Raises WorkerNotStarted.
        """
        try:
            path = str(Path(self.runtime_dir, socket_name(index, taken)))
            self.put_back()
            ours, theirs = socket.socketpair()
        except (OSError, RuntimeDirError, UnsafeDirectory) as error:
            raise WorkerNotStarted(str(error)) from error
        ours.setblocking(False)
        with theirs:
            try:
                return self._spawn(index, theirs.fileno(), path), ours, path
            except (OSError, StartFailed) as error:
                ours.close()
                raise WorkerNotStarted(str(error)) from error

    def remove_sockets(self) -> None:
        """Remove the private sockets of workers that were killed when there was no daemon to tidy up behind them."""
        for path in Path(self.runtime_dir).glob("worker-*.sock*"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
                knock.setblocking(False)
                try:
                    knock.connect(str(path))
                except ConnectionRefusedError:
                    with contextlib.suppress(OSError):
                        path.unlink()
                except OSError:
                    continue  # no socket, gone, or somebody who serves and has much to do

    def _spawn(self, index: int, link_descriptor: int, socket_path: str) -> Child:
        argv = [
            *self.command,
            "_proxy-worker",
            f"--link-fd={link_descriptor}",
            f"--listen-fd={self.listener.fileno()}",
            f"--socket={socket_path}",
            f"--index={index}",
        ]
        # A file, not our own stderr: a worker outlives this daemon, and must not die of a closed pipe.
        path = Path(self.runtime_dir, "workers.log")
        bound_file(path, _WORKERS_LOG_BYTES)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return self.reaper.spawn(
                argv, cwd="/", env=None, stdout=log, stderr=log, pass_fds=(link_descriptor, self.listener.fileno())
            )
        finally:
            os.close(log)
