"""``validate`` and ``config``: what is wrong with the config file, and what it means with every default filled in."""

from __future__ import annotations

import argparse
import os
import textwrap
from typing import TYPE_CHECKING

from rollbridge.cli.errors import DONE, FAILED
from rollbridge.cli.output import print_result
from rollbridge.cli.parser import CommandParser, Subparsers, add_command
from rollbridge.cli.session import absolute_path
from rollbridge.config.issues import ConfigError, ConfigIssue

if TYPE_CHECKING:
    from rollbridge.config.model import Config

WIDTH = 80

VALIDATE_DESCRIPTION = """\
Lists every problem of the config file, each with its line, the value found and
what to do about it; also users that this machine does not have, and what the
user who runs this may not set. Nothing is started or changed.
Exit code 0 when there is none, 1 when there are some."""

CONFIG_DESCRIPTION = """\
Prints the effective config as TOML: every default filled in, every path
absolute, templates expanded where they are known already. The output is a
config file itself, and means the same."""


def add_parser(subparsers: Subparsers[CommandParser]) -> None:
    add_command(
        subparsers,
        "validate",
        run=validate,
        description=VALIDATE_DESCRIPTION,
        examples=["rollbridge validate", "rollbridge validate -c /srv/app/rollbridge.toml --json"],
    )
    add_command(
        subparsers,
        "config",
        run=show,
        description=CONFIG_DESCRIPTION,
        examples=["rollbridge config", "rollbridge config --json"],
    )


def validate(args: argparse.Namespace) -> int:
    """List the problems of the config file; 1 when there are some."""
    from rollbridge.config.load import load_config
    from rollbridge.process.accounts import permission_problems

    path = absolute_path(args.config)
    try:
        config = load_config(path, os.environ)
        problems_here = permission_problems(config)
        if problems_here:
            raise ConfigError(problems_here, path)
    except ConfigError as error:
        problems = [
            {"where": issue.where, "line": issue.line, "message": issue.message, "fix": issue.fix}
            for issue in error.issues
        ]
        print_result(
            args, {"status": "error", "path": path, "problems": problems}, problem_text(args.config, error.issues)
        )
        return FAILED
    print_result(args, {"status": "success", "path": path, "problems": []}, _summary(args.config, config))
    return DONE


def show(args: argparse.Namespace) -> int:
    """Print the effective config; a broken one is a ConfigError, told like everywhere."""
    from rollbridge.config.export import to_tables, to_toml
    from rollbridge.config.load import load_config

    config = load_config(absolute_path(args.config), os.environ)
    if args.json:
        print_result(args, {"status": "success", "path": config.source_path, "config": to_tables(config)}, "")
    else:
        print_result(args, {}, to_toml(config).rstrip("\n"))
    return DONE


def problem_text(path: str, issues: tuple[ConfigIssue, ...]) -> str:
    """Return one block for each problem, wrapped to 80 columns, and how many there are."""
    blocks = [_block(path, issue) for issue in issues]
    count = "1 problem" if len(issues) == 1 else f"{len(issues)} problems"
    return "\n".join([*blocks, f"{count} in {_visible(path)}"])


def _block(path: str, issue: ConfigIssue) -> str:
    place = _visible(path) if issue.line is None else f"{_visible(path)}:{issue.line}"
    where = f"{issue.where}: " if issue.where else ""
    return "\n".join(
        [_wrapped(f"{place}: {where}{issue.message}", "", "    "), _wrapped(f"fix: {issue.fix}", "  ", "       ")]
    )


def _wrapped(text: str, first: str, later: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,  # a path or an example is copied whole
        break_on_hyphens=False,
    )


def _visible(path: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in path)


def _summary(path: str, config: Config) -> str:
    count = len(config.processes)
    processes = "1 process" if count == 1 else f"{count} processes"
    return (
        f"{_visible(path)} is valid: application {config.application}, {processes}, "
        f"proxy on {_address(config.proxy.host, config.proxy.port)}"
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
