"""Asks the kernel about ports: can it be bound, who listens on it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from rollbridge.release.ports import PortFact

_LISTEN: Final = "0A"  # TCP_LISTEN in /proc/net/tcp


def probe_port(host: str, port: int) -> PortFact:
    """Return whether ``host:port`` could be bound now.

    SO_REUSEADDR as servers set it: a port whose last connections are in TIME_WAIT is free,
    one that somebody listens on is not.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            # Two sockets that both set SO_REUSEADDR may be bound to one port; only one may listen.
            probe.listen(1)
        except OSError as error:
            return PortFact.IN_USE if error.errno == errno.EADDRINUSE else PortFact.NOT_BINDABLE
    return PortFact.FREE


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening TCP socket on a port, as /proc/net/tcp tells it."""

    inode: int
    uid: int


def listeners_on(port: int) -> tuple[Listener, ...]:
    """Return every TCP socket that listens on ``port``, whatever its address, IPv4 and IPv6."""
    suffix = f":{port:04X}"
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            text = Path(table).read_text(encoding="ascii")
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for line in text.splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and fields[1].endswith(suffix):
                found.append(Listener(inode=int(fields[9]), uid=int(fields[7])))
    return tuple(found)


def strangers_on(port: int, members: Collection[int]) -> tuple[Listener, ...]:
    """Return the listeners on ``port`` that no process of ``members`` (pids) holds.

    A member whose descriptors we may not read (it runs as another user) is taken to hold the
    sockets that its user created: that is all that can be known without privileges.
    """
    listeners = listeners_on(port)
    if not listeners:
        return ()
    held: set[int] = set()
    unreadable_uids: set[int] = set()
    for pid in members:
        try:
            held |= socket_inodes(pid)
        except PermissionError:
            unreadable_uids.add(Path(f"/proc/{pid}").stat().st_uid)
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
    return tuple(one for one in listeners if one.inode not in held and one.uid not in unreadable_uids)


def socket_inodes(pid: int) -> set[int]:
    """Return the inodes of the sockets that ``pid`` has open; raise OSError when its descriptors cannot be read."""
    inodes = set()
    with os.scandir(f"/proc/{pid}/fd") as descriptors:
        for descriptor in descriptors:
            try:
                target = Path(descriptor.path).readlink().name
            except FileNotFoundError:  # closed since it was listed
                continue
            if target.startswith("socket:["):
                inodes.add(int(target[8:-1]))
    return inodes


def describe_holder(host: str, port: int) -> str:
    """Return ``127.0.0.1:18182 is in use by pid 3127 (nginx)``, or by whose process when its pid cannot be seen."""
    for connection in psutil.net_connections("tcp"):
        is_holder = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        if is_holder and connection.pid is not None:
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                return f"{host}:{port} is in use by pid {connection.pid} ({psutil.Process(connection.pid).name()})"
    for listener in listeners_on(port):
        return f"{host}:{port} is in use by a process of uid {listener.uid}"
    return f"{host}:{port} is in use"
