"""``init``: a commented config file for the application of the working directory."""

from __future__ import annotations

import argparse
import os

from rollbridge.cli.errors import DONE, FAILED, REFUSED, CliError
from rollbridge.cli.output import print_line, print_note, print_result
from rollbridge.cli.parser import CommandParser, Subparsers, add_command
from rollbridge.cli.session import absolute_path

DESCRIPTION = """\
Writes a commented rollbridge.toml (or the file of -c) for the application in the
working directory, as its files tell how it is run: Procfile, manage.py, config.ru,
package.json, or a Python file with an ASGI or WSGI app. Asks nothing, runs nothing.

A file that is there is never overwritten: move it away, or look at --stdout."""

_MOST_BYTES = 1024 * 1024  # of a file that is looked into


def add_parser(subparsers: Subparsers[CommandParser]) -> None:
    parser = add_command(
        subparsers, "init", run=run, description=DESCRIPTION, examples=["rollbridge init", "rollbridge init --stdout"]
    )
    parser.add_argument("--stdout", action="store_true", help="print the file instead of writing it")


def run(args: argparse.Namespace) -> int:
    from rollbridge.cli.failures import visible
    from rollbridge.cli.sightings import look
    from rollbridge.cli.starter import application_name, starter_config, summary
    from rollbridge.config.parse import parse_config

    path = absolute_path(args.config)
    directory = absolute_path(".")
    if not args.stdout:
        _refuse_existing(path)
    sighting = look(_files(directory), _programs(directory))
    text = starter_config(application_name(os.path.basename(directory)), sighting)  # noqa: PTH119
    parse_config(text.encode(), path, os.environ, uid=os.getuid())  # never a file that `validate` would not have
    lines = [visible(line) for line in summary(sighting)]
    document = {"status": "success", "path": None if args.stdout else path, "config": text, "found": lines}
    if args.stdout:
        print_result(args, document, text.rstrip("\n"))
        return DONE
    _write(path, text)
    if args.json:
        print_result(args, document, "")
        return DONE
    print_line(f"wrote {path}")
    for line in lines:
        print_note(f"  {line}")
    return DONE


def _refuse_existing(path: str) -> None:
    if os.path.lexists(path):
        raise CliError(
            f"{path} exists and was left as it is. Move it away, or use `rollbridge init --stdout`.", REFUSED
        )


def _write(path: str, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        _refuse_existing(path)
        raise
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}. Nothing was written.", FAILED) from error
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        os.unlink(path)  # noqa: PTH108
        raise CliError(f"{path} cannot be written: {error.strerror}. Nothing was left of it.", FAILED) from error


def _files(directory: str) -> dict[str, str]:
    from rollbridge.cli.sightings import READ_FILES

    return {name: text for name in READ_FILES if (text := _text(os.path.join(directory, name))) is not None}  # noqa: PTH118


def _text(path: str) -> str | None:
    """Return what the file says; None when it is not there, not a file, or may not be read."""
    if not os.path.isfile(path):  # noqa: PTH113
        return None
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace").replace("\0", "")
    except OSError as error:
        print_note(f"rollbridge: {path} cannot be read and was not looked into: {error.strerror}.")
        return None


def _programs(directory: str) -> dict[str, str]:
    """Return the programs of a virtual environment in the directory, as a release would run its own."""
    from rollbridge.cli.sightings import VIRTUAL_ENVIRONMENTS

    return {
        name: f"{{{{release_path}}}}/{environment}/bin/{name}"
        for environment in reversed(VIRTUAL_ENVIRONMENTS)
        for name in ("gunicorn", "uvicorn")
        if os.access(os.path.join(directory, environment, "bin", name), os.X_OK)  # noqa: PTH118
    }
