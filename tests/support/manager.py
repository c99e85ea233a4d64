"""A service manager, as far as sd_notify(3) goes: a datagram socket, and what arrived on it from whom."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.support.waiting import wait_until

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: what the kernel says of the sender


@dataclass(frozen=True, slots=True)
class Told:
    """One datagram."""

    pid: int
    values: dict[str, str]


class FakeManager:
    """Give it the path of a socket, or ``@name``; put ``environ`` into the environment of what it manages."""

    def __init__(self, address: Path | str) -> None:
        self.address = str(address)
        self.told: list[Told] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("\0" + self.address[1:] if self.address.startswith("@") else self.address)
        self._socket.setblocking(False)

    @property
    def environ(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address}

    def receive(self) -> list[Told]:
        """Everything that was told so far."""
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(65536, 1024)
            except BlockingIOError:
                return self.told
            pid, _, _ = _CREDENTIALS.unpack(ancillary[0][2])
            values = dict(line.split("=", 1) for line in data.decode().split("\n"))
            self.told.append(Told(pid, values))

    def statuses(self) -> list[str]:
        return [one.values["STATUS"] for one in self.receive() if "STATUS" in one.values]

    def has(self, name: str, value: str | None = None, since: int = 0) -> bool:
        """Whether ``name`` was told, behind the first ``since`` datagrams."""
        return any(name in one.values and value in (None, one.values[name]) for one in self.receive()[since:])

    def wait_for(self, name: str, value: str | None = None, since: int = 0) -> None:
        wait_until(lambda: self.has(name, value, since), self._describe(f"{name}={value or '...'}"))

    def wait_status(self, text: str) -> None:
        """Until the last status is ``text``."""
        wait_until(lambda: self.statuses()[-1] == text, self._describe(f"the status is {text!r}"))

    def _describe(self, what: str) -> Callable[[], str]:
        return lambda: f"{what}; was told " + "; ".join(str(one.values) for one in self.told)

    def __enter__(self) -> FakeManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
