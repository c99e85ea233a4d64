"""Asks the kernel about ports: can it be bound, who listens on it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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
        descriptors = Path(f"/proc/{pid}/fd")
        try:
            names = os.listdir(descriptors)
        except PermissionError:
            unreadable_uids.add(descriptors.stat().st_uid)
            continue
        except (FileNotFoundError, ProcessLookupError):
            continue
        for name in names:
            try:
                target = os.readlink(descriptors / name)
            except OSError:  # closed since it was listed
                continue
            if target.startswith("socket:["):
                held.add(int(target[8:-1]))
    return tuple(one for one in listeners if one.inode not in held and one.uid not in unreadable_uids)


def pid_holding(listener: Listener) -> int | None:
    """Return a process that holds ``listener``, or None when that cannot be seen."""
    wanted = f"socket:[{listener.inode}]"
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            for name in os.listdir(f"/proc/{entry}/fd"):
                if os.readlink(f"/proc/{entry}/fd/{name}") == wanted:
                    return int(entry)
        except OSError:  # gone meanwhile, or not ours to read
            continue
    return None


def describe_holder(host: str, port: int) -> str:
    """Return ``127.0.0.1:18182 is in use by pid 3127``, without the pid when it cannot be seen."""
    for listener in listeners_on(port):
        pid = pid_holding(listener)
        if pid is not None:
            return f"{host}:{port} is in use by pid {pid}"
        return f"{host}:{port} is in use by a process of uid {listener.uid}"
    return f"{host}:{port} is in use"
