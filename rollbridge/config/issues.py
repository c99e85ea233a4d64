"""What is wrong with a config file, as values an operator can act on.

Named tuples, not dataclasses: every client command loads this module, and ``dataclasses`` alone costs more than
the rest of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ConfigIssue(NamedTuple):
    """One thing to correct; ``validate`` lists them all, not only the first."""

    where: str  # dotted path in the file, "processes.web.port"; "" for the file as a whole
    message: str  # what is wrong, with the value found: "port 80800 is above 65535"
    fix: str  # an act, ready to carry out: "choose a port from 1 to 65535, or remove the line"
    line: int | None = None

    @property
    def text(self) -> str:
        """Message and fix in one line, with where they belong."""
        return f"{self.where}: {self.message}; {self.fix}" if self.where else f"{self.message}; {self.fix}"


class ConfigError(Exception):
    """The config file cannot be used. ``issues`` has at least one entry, in the order of the file."""

    def __init__(self, issues: Sequence[ConfigIssue], source_path: str = "") -> None:
        self.issues: tuple[ConfigIssue, ...] = tuple(issues)
        self.source_path = source_path
        super().__init__(self.issues, source_path)

    def __str__(self) -> str:
        if len(self.issues) == 1:
            issue = self.issues[0]
            place = ":".join(str(part) for part in (self.source_path, issue.line) if part)
            return f"{place}: {issue.text}" if place else issue.text
        lines = [f"line {issue.line}: {issue.text}" if issue.line else issue.text for issue in self.issues]
        heading = f"{self.source_path or 'the config'} has {len(self.issues)} problems:"
        return "\n  ".join([heading, *lines])


class BadValue(ValueError):
    """A piece of text does not mean what its place asks for. ``message`` and ``fix`` as in ConfigIssue."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}; {fix}")
        self.message = message
        self.fix = fix
