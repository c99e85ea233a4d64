"""What the parser takes, as values: every command with its options, what their values are, and its arguments."""

from __future__ import annotations

import argparse
import enum
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rollbridge.cli.parser import CommandParser, new_parser

if TYPE_CHECKING:
    from rollbridge.cli.commands import Command


class Kind(enum.Enum):
    """What may stand in the place of a value."""

    CHOICES = "choices"
    FILE = "file"
    DIRECTORY = "directory"
    PROCESS = "process"  # an id of the config: web
    INSTANCE = "instance"  # that, or one of status: r42.web.0
    RELEASE = "release"
    FREE = "free"  # what nobody can guess: a number, a time


ASKED: Final = (Kind.PROCESS, Kind.INSTANCE, Kind.RELEASE)  # known by the daemon only

# By the name of the argument first, then by what the help calls its value.
_BY_NAME: Final[Mapping[str, Kind]] = {
    "process": Kind.PROCESS,
    "release_id": Kind.RELEASE,
    "release_path": Kind.DIRECTORY,
}
_BY_METAVAR: Final[Mapping[str, Kind]] = {
    "PATH": Kind.FILE,
    "FILE": Kind.FILE,
    "DIRECTORY": Kind.DIRECTORY,
    "RELEASE": Kind.RELEASE,
    "PROCESS": Kind.PROCESS,
}
# `logs` and the like show one replica; elsewhere a process means all of its replicas.
_INSTANCES: Final = ("logs",)


@dataclass(frozen=True, slots=True)
class Value:
    """A value that an option or an argument takes; ``choices`` only of kind CHOICES."""

    name: str
    kind: Kind
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    names: tuple[str, ...]
    help: str
    value: Value | None
    is_repeatable: bool


@dataclass(frozen=True, slots=True)
class CommandShape:
    name: str
    summary: str
    options: tuple[Option, ...]
    arguments: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """The whole command line: the options that stand before a command, and every command."""

    options: tuple[Option, ...]
    commands: tuple[CommandShape, ...]


def shape_of(commands: Mapping[str, Command]) -> Shape:
    """Return the shape of all ``commands``; imports each of their families."""
    parser, subparsers = new_parser()
    for family in dict.fromkeys(command.family for command in commands.values()):
        importlib.import_module(f"rollbridge.cli.{family}").add_parser(subparsers)
    shapes = [command_shape(name, command.summary, subparsers.choices[name]) for name, command in commands.items()]
    asking = CommandShape("help", "what a command does, with examples", (), (_choices("COMMAND", tuple(commands)),))
    return Shape(_options("", parser), (*shapes, asking))


def command_shape(name: str, summary: str, parser: CommandParser) -> CommandShape:
    """Return the shape of one command."""
    arguments = [_value(name, action) for action in parser._get_positional_actions()]
    return CommandShape(name, summary, _options(name, parser), tuple(value for value in arguments if value))


def _options(command: str, parser: CommandParser) -> tuple[Option, ...]:
    actions = [action for action in parser._get_optional_actions() if action.option_strings]
    return tuple(
        Option(
            tuple(action.option_strings),
            _one_line(action.help or _UNTOLD.get(action.option_strings[0], "")),
            _value(command, action),
            isinstance(action, argparse._AppendAction),
        )
        for action in actions
    )


_UNTOLD: Final = {"--version": "print the version", "--help": "print the list of commands"}


def _one_line(text: str) -> str:
    return " ".join(text.replace("%%", "%").split())


def _value(command: str, action: argparse.Action) -> Value | None:
    if action.nargs == 0:
        return None
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if action.choices is not None:
        return _choices(metavar, tuple(str(choice) for choice in action.choices))
    kind = _BY_NAME.get(action.dest) or _BY_METAVAR.get(metavar) or Kind.FREE
    if kind is Kind.PROCESS and command in _INSTANCES:
        kind = Kind.INSTANCE
    return Value(metavar, kind)


def _choices(name: str, choices: Sequence[str]) -> Value:
    return Value(name, Kind.CHOICES, tuple(choices))
