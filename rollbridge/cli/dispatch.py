"""From a command line to the exit code of the command it names."""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rollbridge import __version__
from rollbridge.cli.errors import DONE, FAILED, CliError, UsageError
from rollbridge.cli.output import ReaderGone, prepare_streams, print_line, print_note
from rollbridge.cli.parser import CommandParser, new_parser, overview

if TYPE_CHECKING:
    from rollbridge.cli.commands import Command


def run_command(arguments: Sequence[str], commands: Mapping[str, Command]) -> int:
    """Run the command that ``arguments`` name, one of ``commands``; return the exit code.

    Whatever goes wrong is one sentence on stderr and, with ``--json``, an object on stdout; a traceback only for a
    defect, and only when it is asked for.
    """
    prepare_streams()
    try:
        return _run(arguments, commands)
    except ReaderGone:
        return DONE
    except KeyboardInterrupt:
        return report(CliError("interrupted."), arguments)
    except CliError as error:
        return report(error, arguments)
    except Exception as error:
        from rollbridge.cli.failures import DEBUG_VARIABLE, explain

        if os.environ.get(DEBUG_VARIABLE):
            raise
        return report(explain(error), arguments)


def _run(arguments: Sequence[str], commands: Mapping[str, Command]) -> int:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    if "--version" in arguments:
        print_line(f"rollbridge {__version__}")
        return DONE
    name = command_name(arguments)
    # Wherever it stands: `rollbridge --help shutdown` asks, and must not shut down.
    is_asking = "-h" in arguments or "--help" in arguments
    if name is None:
        if is_asking:
            print_line(overview({name: command.summary for name, command in commands.items()}))
            return DONE
        _check_options(arguments, new_parser()[0], "rollbridge")
        raise UsageError("no command given. `rollbridge --help` lists them.")
    if name not in commands:
        raise UsageError(f"there is no command {name!r}{_did_you_mean(name, commands)} `rollbridge --help` lists them.")
    if is_asking:
        print_line(parser_for(name, commands)[1].format_help().rstrip("\n"))
        return DONE
    args = parse(arguments, name, commands)
    run: Callable[[argparse.Namespace], int] = args.run
    return run(args)


def report(error: CliError, arguments: Sequence[str]) -> int:
    """Tell ``error`` on stderr, and on stdout with ``--json``; return its exit code."""
    print_note(f"rollbridge: {error.message}")
    if error.data:
        from rollbridge.cli.failures import details

        for line in details(error.data):
            print_note(line)
    if "--json" in arguments:
        answer = {**error.data, "status": "error", "error": error.message, "exit_code": error.exit_code}
        try:
            print_line(json.dumps(answer))
        except ReaderGone:
            return error.exit_code
        except CliError as unwritable:
            print_note(f"rollbridge: {unwritable.message}")
            return error.exit_code or FAILED
    return error.exit_code


def parser_for(name: str, commands: Mapping[str, Command]) -> tuple[CommandParser, CommandParser]:
    """Return the whole parser and the one of the command ``name``; only that command's family is imported."""
    parser, subparsers = new_parser()
    family = importlib.import_module(f"rollbridge.cli.{commands[name].family}")
    family.add_parser(subparsers)
    return parser, subparsers.choices[name]


def parse(arguments: Sequence[str], name: str, commands: Mapping[str, Command]) -> argparse.Namespace:
    """Return the parsed arguments; raise UsageError in a sentence that names what was probably meant."""
    parser, command = parser_for(name, commands)
    # Before argparse looks: it would complain of the required option that the mistyped one was to be.
    _check_options(arguments, command, f"`rollbridge {name}`")
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise UsageError(f"`rollbridge {name}` does not take {unknown[0]!r}. See `rollbridge {name} --help`.")
    return args


def _check_options(arguments: Sequence[str], parser: CommandParser, who: str) -> None:
    for argument in arguments:
        if argument == "--":
            return
        option = argument.partition("=")[0]
        if option.startswith("--") and option not in parser.long_options:
            raise UsageError(
                f"{who} has no option {option}{_did_you_mean(option, parser.long_options)} See `{parser.prog} --help`."
            )


def _did_you_mean(word: str, known: Mapping[str, object] | Sequence[str]) -> str:
    from rollbridge.config.suggest import nearest

    match = nearest(word, known)
    return f"; did you mean {match}?" if match else "."


def command_name(arguments: Sequence[str]) -> str | None:
    """Return the first argument that is neither an option nor the value of one; None when there is none."""
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-c", "--config"):
            next(rest, None)
        elif not argument.startswith("-"):
            return argument
    return None
