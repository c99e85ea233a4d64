"""How a process ended, as a value and as a sentence."""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """Exit code or ending signal; both None: unknown (it ended while it was nobody's child of ours)."""

    code: int | None
    signal: int | None

    @property
    def is_known(self) -> bool:
        return self.code is not None or self.signal is not None

    @property
    def is_success(self) -> bool:
        return self.code == 0

    @property
    def signal_name(self) -> str | None:
        return None if self.signal is None else name_signal(self.signal)

    def __str__(self) -> str:
        return describe_exit(self)


def name_signal(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"


def describe_exit(status: ExitStatus, *, is_shell_command: bool = True) -> str:
    """One clause for messages, without a subject: ``exited with code 3``.

    126 and 127 are what /bin/sh says of a program it never ran; without a shell they are the program's own codes.
    """
    if status.signal is not None:
        return f"was ended by {name_signal(status.signal)}"
    if status.code is None:
        return "ended with an unknown exit code"
    if is_shell_command and status.code == 127:
        return "exited with code 127 (command not found; its last lines name it)"
    if is_shell_command and status.code == 126:
        return "exited with code 126 (command found, but it may not be executed)"
    return f"exited with code {status.code}"
