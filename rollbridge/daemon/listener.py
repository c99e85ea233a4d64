"""The one stable port: bound by the supervisor, or received from systemd, and shared with the workers."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from typing import Final

from rollbridge.release.port_probe import describe_holder

_FIRST_PASSED_FD: Final = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START
_BACKLOG: Final = 4096  # what Linux allows by default (net.core.somaxconn); more is cut to that silently


class ListenerError(Exception):
    """The stable port cannot be had; ``is_held`` when somebody else has it."""

    def __init__(self, message: str, is_held: bool = False) -> None:
        super().__init__(message)
        self.is_held = is_held


def open_listener(host: str, port: int, environ: Mapping[str, str]) -> socket.socket:
    """Return the listening socket for ``host:port``, passed by systemd when it is, else bound here.

    Raises ListenerError with what holds the port and what to do.
    """
    passed = _passed_listener(port, environ)
    return passed if passed is not None else _bind(host, port)


def _passed_listener(port: int, environ: Mapping[str, str]) -> socket.socket | None:
    """Return the socket on ``port`` among those of ``LISTEN_FDS``, None when we were passed none (sd_listen_fds(3))."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    text = environ.get("LISTEN_FDS", "0")
    if not text.isascii() or not text.isdigit():
        raise ListenerError(f"LISTEN_FDS is {text[:40]!r}, not a number: unset it, or start the daemon through systemd")
    count = int(text)
    seen = []
    for descriptor in range(_FIRST_PASSED_FD, _FIRST_PASSED_FD + count):
        os.set_inheritable(descriptor, False)
        candidate = socket.socket(fileno=descriptor)
        if candidate.family in (socket.AF_INET, socket.AF_INET6):
            bound = candidate.getsockname()[1]
            if bound == port:
                candidate.setblocking(False)
                return candidate
            seen.append(str(bound))
        candidate.detach()
    if count:
        raise ListenerError(
            f"the service manager passed {count} socket(s) on port(s) {', '.join(seen) or 'none'}, not on "
            f"proxy.port {port}: make ListenStream= and proxy.port agree"
        )
    return None


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ListenerError(
                f"{describe_holder(host, port)}: stop that process, or choose another proxy.port", is_held=True
            ) from error
        if error.errno == errno.EACCES:
            raise ListenerError(
                f"binding {host}:{port} is not permitted: ports below 1024 need root, CAP_NET_BIND_SERVICE or "
                f"systemd socket activation; or choose a proxy.port above 1023"
            ) from error
        raise ListenerError(
            f"binding {host}:{port}: {os.strerror(error.errno or 0).lower()}: set proxy.host to an address of "
            f"this machine"
        ) from error
    except OverflowError as error:
        listener.close()
        raise ListenerError(f"binding {host}:{port}: {error}") from error
    listener.setblocking(False)
    return listener
