"""``completion``: what a shell needs to complete this command line, made from the parser."""

from __future__ import annotations

import argparse

from rollbridge.cli.errors import DONE
from rollbridge.cli.output import print_result
from rollbridge.cli.parser import CommandParser, Subparsers, add_command

SHELLS = ("bash", "zsh", "fish")

DESCRIPTION = """\
Prints a script for the shell named, which completes commands, options, choices and
paths, and the ids of processes and releases that the running daemon knows. It
completes `rollbridge` and `rollbridge.pyz`, also with a directory in front.

To have it in every session, put the line of your shell among the examples into
~/.bashrc or ~/.zshrc (after compinit); fish reads the file by itself."""


def add_parser(subparsers: Subparsers[CommandParser]) -> None:
    parser = add_command(
        subparsers,
        "completion",
        run=run,
        description=DESCRIPTION,
        examples=[
            'eval "$(rollbridge completion bash)"',
            'eval "$(rollbridge completion zsh)"',
            "rollbridge completion fish >~/.config/fish/completions/rollbridge.fish",
        ],
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    from rollbridge.cli.commands import COMMANDS
    from rollbridge.cli.completion_bash import bash_script
    from rollbridge.cli.completion_fish import fish_script
    from rollbridge.cli.completion_zsh import zsh_script
    from rollbridge.cli.parser_shape import shape_of

    write = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}[args.shell]
    script = write(shape_of(COMMANDS))
    print_result(args, {"status": "success", "shell": args.shell, "script": script}, script.rstrip("\n"))
    return DONE
