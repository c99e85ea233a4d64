"""Why an operation on releases did not do what it was asked, told for the operator."""

from __future__ import annotations

from collections.abc import Sequence


class OperationFailed(Exception):
    """The operation was tried and failed; the message ends with where the operator stands now.

    ``phase`` is the step's name; ``probe`` the last health answer; ``lines`` the last output of the
    process that failed.
    """

    def __init__(
        self, message: str, *, phase: str = "", process: str = "", probe: str = "", lines: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.phase = phase
        self.process = process
        self.probe = probe
        self.lines = tuple(lines)


class OperationRefused(Exception):
    """The operation was not tried: busy, wrong state, or held by another. Nothing changed."""


class BadRequest(Exception):
    """What was asked makes no sense whatever the state: a path that does not exist, an id with blanks."""
