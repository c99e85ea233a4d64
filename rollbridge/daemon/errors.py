"""Why a daemon did not start."""

from __future__ import annotations

from collections.abc import Sequence


class DaemonFailed(Exception):
    """The daemon cannot start or go on; the message is for the operator, ``exit_code`` is the documented one.

    ``lines`` are the last that ``process`` printed, when one is to blame.
    """

    def __init__(self, message: str, exit_code: int = 1, lines: Sequence[str] = (), process: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.lines = tuple(lines)
        self.process = process
