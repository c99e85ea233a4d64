"""How a command says that it cannot go on: one exception, turned into a sentence and an exit code by ``main``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DONE: Final = 0
FAILED: Final = 1  # the operation failed, or a check found problems
USAGE: Final = 2  # wrong usage, or a config file with problems
NO_DAEMON: Final = 3  # no daemon answers
REFUSED: Final = 4  # busy, wrong state, held by another


class CliError(Exception):
    """A foreseen failure of a command.

    ``message`` is complete sentences for the operator, without the ``rollbridge:`` in front; later lines of it
    are printed as they are. ``data`` is added to the JSON answer of ``--json``.
    """

    def __init__(self, message: str, exit_code: int = FAILED, data: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.data: Mapping[str, object] = data or {}


class UsageError(CliError):
    """The command line cannot be understood; exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(message, USAGE)
