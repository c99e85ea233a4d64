"""Why a daemon did not start."""

from __future__ import annotations


class DaemonFailed(Exception):
    """The daemon cannot start or go on; the message is for the operator, ``exit_code`` is the documented one."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
