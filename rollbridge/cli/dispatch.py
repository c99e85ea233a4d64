"""From a command line to the exit code of the command it names."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rollbridge.cli.errors import DONE, CliError, UsageError
from rollbridge.cli.parser import CommandParser, new_parser

if TYPE_CHECKING:
    from rollbridge.cli.main import Command


def run_command(arguments: Sequence[str], commands: Mapping[str, Command]) -> int:
    try:
        name = command_name(arguments)
        if name is None:
            print("\n".join(f"{key:15} {command.summary}" for key, command in commands.items()))
            return DONE
        if name not in commands:
            raise UsageError(f"there is no command {name!r}. `rollbridge --help` lists them.")
        args = parser_for(name, commands).parse_args(arguments)
        return int(args.run(args))
    except CliError as error:
        if "--json" in arguments:
            print(json.dumps({"status": "error", "error": error.message, "exit_code": error.exit_code, **error.data}))
        print(f"rollbridge: {error.message}", file=sys.stderr)
        return error.exit_code


def parser_for(name: str, commands: Mapping[str, Command]) -> CommandParser:
    """Return the parser of the family that has the command ``name``; only that family is imported."""
    parser, subparsers = new_parser()
    family = importlib.import_module(f"rollbridge.cli.{commands[name].family}")
    family.add_parser(subparsers)
    return parser


def command_name(arguments: Sequence[str]) -> str | None:
    """Return the first argument that is neither an option nor the value of one; None when there is none."""
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-c", "--config"):
            next(rest, None)
        elif not argument.startswith("-"):
            return argument
    return None
