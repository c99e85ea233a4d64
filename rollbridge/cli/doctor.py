"""``doctor``: whether config, machine and release are such that a deploy can succeed, and what to mend."""

from __future__ import annotations

import argparse
import os
import textwrap

from rollbridge.cli.errors import DONE, FAILED
from rollbridge.cli.output import print_result
from rollbridge.cli.parser import CommandParser, Subparsers, add_command
from rollbridge.cli.session import absolute_path

WIDTH = 80

DESCRIPTION = """\
Looks at what a deploy depends on, and says what to do about each problem: config,
daemon, sockets, ports and who holds them, state file, orphans, users, templates,
commands, limits, clock, disk, units of systemd that run this daemon, and a prepared
release. Run it as the daemon's user, with its environment. It changes nothing.

Exit code 1 when there is a problem; warnings leave it 0."""


def add_parser(subparsers: Subparsers[CommandParser]) -> None:
    parser = add_command(
        subparsers,
        "doctor",
        run=run,
        description=DESCRIPTION,
        examples=["rollbridge doctor", "rollbridge doctor --release-path /srv/app/releases/r42"],
    )
    parser.add_argument(
        "--release-path", metavar="PATH", action="append", default=[], help="a prepared release; may be repeated"
    )
    parser.add_argument(
        "--unit", metavar="FILE", action="append", default=[], help="a unit of systemd besides those installed"
    )


def run(args: argparse.Namespace) -> int:
    from rollbridge.cli.diagnosis import OK, PROBLEM, Finding, exit_is_bad
    from rollbridge.cli.examining import examine
    from rollbridge.config.issues import ConfigError
    from rollbridge.config.load import load_config

    path = absolute_path(args.config)
    try:
        config = load_config(path, os.environ)
    except ConfigError as error:
        findings = [
            Finding("config", PROBLEM, f"{f'{issue.where}: ' if issue.where else ''}{issue.message}", issue.fix)
            for issue in error.issues
        ]
    else:
        paths = [absolute_path(one) for one in args.release_path]
        findings = [Finding("config", OK, f"{path} is valid")]
        findings += examine(config, paths, [absolute_path(one) for one in args.unit])
    is_bad = exit_is_bad(findings)
    document = {
        "status": "error" if is_bad else "success",
        "findings": [
            {"check": one.check, "level": one.level, "message": one.message, "fix": one.fix} for one in findings
        ],
    }
    lines = [line for one in findings for line in _lines(one.level, one.check, one.message, one.fix)]
    bad = sum(one.level == PROBLEM for one in findings)
    warned = sum(one.level not in (PROBLEM, OK) for one in findings)
    print_result(args, document, "\n".join([*lines, f"{_count(bad, 'problem')}, {_count(warned, 'warning')}"]))
    return FAILED if is_bad else DONE


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _lines(level: str, check: str, message: str, fix: str) -> list[str]:
    from rollbridge.cli.failures import visible

    lines = _wrapped(f"{level:8} {check}: {visible(message)}", "", " " * 11)
    return [*lines, *(_wrapped(f"fix: {visible(fix)}", " " * 9, " " * 14) if fix else [])]


def _wrapped(text: str, first: str, later: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False,
        drop_whitespace=True,
    )  # fmt: skip
