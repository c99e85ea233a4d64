"""Reads ``env_file`` and ``env_command`` of a process: where its environment comes from beside ``env``."""

from __future__ import annotations

from typing import Any

from rollbridge.config.commands import read_words, start_template
from rollbridge.config.model import EnvCommand
from rollbridge.config.reader import Table
from rollbridge.config.showing import show_value
from rollbridge.config.values import duration

_FILE_EXAMPLE = "/etc/shop/secrets.env"
_COMMAND_EXAMPLE = ("print-secrets", "shop")
# Long enough for a secrets store across a slow network; a start waits for it, so not for ever.
DEFAULT_ENV_COMMAND_SECONDS = 10.0
_MOST_ENV_FILES = 100


def read_env_file(table: Table) -> tuple[str, ...]:
    """Return the templates of the files, as written; a ``?`` at the end of one is part of it."""
    value = table.raw("env_file")
    if value is None:
        return ()
    if isinstance(value, str):
        text = start_template(table, "env_file", value, "", _FILE_EXAMPLE)
        return (text,) if text else ()
    if not isinstance(value, list):
        table.note(
            "env_file", f"{show_value(value)} is neither text nor an array", f'write env_file = "{_FILE_EXAMPLE}"'
        )
        return ()
    if len(value) > _MOST_ENV_FILES:
        table.note("env_file", f"there are more than {_MOST_ENV_FILES} files", "put their variables into fewer files")
        return ()
    return tuple(text for item in value if (text := _read_item(table, item)))


def _read_item(table: Table, item: Any) -> str:
    return start_template(table, "env_file", item, "", _FILE_EXAMPLE)


def read_env_command(table: Table) -> EnvCommand | None:
    """Return the command with its time; given as text, as an array, or as a table of both."""
    value = table.raw("env_command")
    if value is None:
        return None
    if not isinstance(value, dict):
        return EnvCommand(read_words(table, "env_command", _COMMAND_EXAMPLE), DEFAULT_ENV_COMMAND_SECONDS)
    section = table.table("env_command", 'env_command = { command = "print-secrets shop", timeout = "10s" }')
    timeout = duration(section, "timeout", DEFAULT_ENV_COMMAND_SECONDS, is_positive=True)
    if section.raw("command") is None:
        section.note("command", "command is missing", 'add command = "print-secrets shop"')
        command: str | tuple[str, ...] = "missing"
    else:
        command = read_words(section, "command", _COMMAND_EXAMPLE)
    section.finish()
    return EnvCommand(command, timeout)
