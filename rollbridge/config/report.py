"""From the problems of one reading to the ConfigError that tells all of them, each with its line."""

from __future__ import annotations

from collections.abc import Sequence

from rollbridge.config.issues import ConfigError, ConfigIssue
from rollbridge.config.reader import MOST_PROBLEMS, Problem
from rollbridge.config.showing import dotted


def raise_problems(problems: Sequence[Problem], text: str, source_path: str) -> None:
    """Raise ConfigError with every problem, in the order of the file; do nothing when there is none.

    What has no line (a missing section) comes last.
    """
    if not problems:
        return
    # Not at the top: a client command pays for every line it imports, and hardly ever has something to report.
    # A daemon has the module from parse.py.
    from rollbridge.config.lines import LineMap

    lines = LineMap(text)
    issues = [
        ConfigIssue(dotted(problem.path), problem.message, problem.fix, lines.find(problem.path))
        for problem in dict.fromkeys(problems)
    ]
    issues.sort(key=lambda issue: (issue.line is None, issue.line or 0))  # stable: equal lines as they were found
    if len(issues) > MOST_PROBLEMS:
        rest = ConfigIssue("", "there are more problems than these", "correct them first, then validate again")
        issues = [*issues[:MOST_PROBLEMS], rest]
    raise ConfigError(issues, source_path)
