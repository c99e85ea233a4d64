"""Asks the kernel about ports: can it be bound, who listens on it."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import sys
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
    address: str  # numeric; 0.0.0.0 and :: stand for every address


def is_reached_at(listener: Listener, host: str) -> bool:
    """Whether a connection to ``host`` may end at ``listener``; a name that is no address may be any."""
    try:
        wanted = ipaddress.ip_address(host)
    except ValueError:
        return True
    bound = ipaddress.ip_address(listener.address)
    mapped = bound.ipv4_mapped if isinstance(bound, ipaddress.IPv6Address) else None
    return bound.is_unspecified or wanted in (bound, mapped)


def decode_address(text: str) -> str:
    """Return the address that /proc/net/tcp writes as ``text``: 32-bit words in the machine's byte order (proc(5))."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


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
                address = decode_address(fields[1].removesuffix(suffix))
                found.append(Listener(inode=int(fields[9]), uid=int(fields[7]), address=address))
    return tuple(found)


def strangers_on(host: str, port: int, members: Collection[int]) -> tuple[Listener, ...]:
    """Return the listeners that answer at ``host:port`` and that no process of ``members`` (pids) holds.

    A member whose descriptors we may not read (it runs as another user) is taken to hold the
    sockets that its user created: that is all that can be known without privileges.
    """
    listeners = [one for one in listeners_on(port) if is_reached_at(one, host)]
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
