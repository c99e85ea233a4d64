"""The argparse tree: options every command shares, help that fits 80 columns, short answers to wrong usage."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from rollbridge.cli.errors import UsageError

Run = Callable[[argparse.Namespace], int]
Subparsers = argparse._SubParsersAction  # the public name argparse does not give it

DEFAULT_CONFIG = "rollbridge.toml"
HELP_WIDTH = 80


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Paragraphs filled to 80 columns; those with indented lines (examples) as they are written."""

    def __init__(self, prog: str, indent_increment: int = 2, max_help_position: int = 26) -> None:
        super().__init__(prog, indent_increment, max_help_position, width=HELP_WIDTH)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        paragraphs = text.split("\n\n")
        return "\n\n".join(part if "\n  " in part else textwrap.fill(part, HELP_WIDTH) for part in paragraphs)


class CommandParser(argparse.ArgumentParser):
    """A parser that raises UsageError in one or two lines instead of printing its whole usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See `{self.prog} --help`.")

    @property
    def long_options(self) -> list[str]:
        return [option for option in self._option_string_actions if option.startswith("--")]


OVERVIEW = """\
usage: rollbridge [-c PATH] [--json] COMMAND [OPTION ...]

Runs an application's processes behind one stable HTTP port, and moves traffic
from one release to the next without losing a request.

commands:
{commands}

options:
  -c, --config PATH  config file (default: {config} in the working
                     directory)
  --json             print the result as JSON on stdout
  --version          print the version
  -h, --help         print this, or with a command what that one does

exit codes:
  0  done
  1  the operation failed, or a check found problems
  2  wrong usage, or a problem in the config file
  3  no daemon answers
  4  refused: busy, wrong state, or held by another

`rollbridge COMMAND --help` tells more, with examples."""


def overview(summaries: Mapping[str, str]) -> str:
    """Return the text of ``rollbridge --help``; ``summaries`` has a line for every command."""
    commands = "\n".join(f"  {name:19}{summary}" for name, summary in summaries.items())
    return OVERVIEW.format(commands=commands, config=DEFAULT_CONFIG)


def new_parser() -> tuple[CommandParser, Subparsers[CommandParser]]:
    """Return the top parser and the action the families add their commands to."""
    parser = CommandParser(prog="rollbridge", formatter_class=HelpFormatter, allow_abbrev=False, add_help=False)
    parser.set_defaults(config=DEFAULT_CONFIG, json=False)
    _add_shared_options(parser)
    for option in ("--version", "--help"):  # answered before anything is parsed, known here for their near misses
        parser.add_argument(option, action="store_true", default=argparse.SUPPRESS)
    subparsers = parser.add_subparsers(dest="command", required=True, parser_class=CommandParser)
    return parser, subparsers


def add_command(
    subparsers: Subparsers[CommandParser], name: str, *, run: Run, description: str, examples: Sequence[str]
) -> CommandParser:
    """Add the command ``name`` with the shared options; ``run`` is called with the parsed arguments.

    The paragraphs of ``description`` are filled to 80 columns.
    """
    lines = "\n".join(f"  {example}" for example in examples)
    parser = subparsers.add_parser(
        name,
        description=description,
        epilog=f"example:\n{lines}" if len(examples) == 1 else f"examples:\n{lines}",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    _add_shared_options(parser)
    return parser


def _add_shared_options(parser: argparse.ArgumentParser) -> None:
    # SUPPRESS: an option given before the command is not overwritten by the default of the one after it.
    parser.add_argument(
        "-c",
        "--config",
        metavar="PATH",
        default=argparse.SUPPRESS,
        help=f"config file (default: {DEFAULT_CONFIG} in the working directory)",
    )
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON on stdout"
    )
