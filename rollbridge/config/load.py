"""Reads the config file: the only I/O of this room."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rollbridge.config.issues import ConfigError
from rollbridge.config.reach import ClientSettings, read_reach
from rollbridge.config.reader import Table, new_scope
from rollbridge.config.report import raise_problems
from rollbridge.config.source import LARGEST_FILE_BYTES, decode, parse_toml, whole_file_error

if TYPE_CHECKING:
    from rollbridge.config.model import Config

_SECTION = re.compile(r"""\s*\[\[?\s*([A-Za-z0-9_-]+)[\s.\]]""")
_SECTIONS_BESIDE_CONTROL = ("proxy", "release_retention", "processes", "legacy_takeover")


def load_config(path: str, environ: Mapping[str, str]) -> Config:
    """Return the effective config of the file at ``path``; raise ConfigError with everything wrong in it."""
    # Not at the top: the model costs several times what a client command needs of this module. The
    # daemon calls this before it serves, and has the module from then on.
    from rollbridge.config.parse import parse_config

    source_path = os.path.abspath(path)  # noqa: PTH100 - pathlib is not imported for a client command
    return parse_config(_read(path, source_path), source_path, environ, uid=os.getuid())


def load_client_settings(path: str, environ: Mapping[str, str]) -> ClientSettings:
    """Return how to reach the daemon of the config at ``path``, whatever else is wrong in the file.

    Raises ConfigError only when ``application``, ``runtime_dir``, ``state_path`` or ``[control]`` cannot be read.
    """
    source_path = os.path.abspath(path)  # noqa: PTH100 - see above
    data = _read(path, source_path)
    try:
        text = decode(data)
        tables = _parse_what_reaches(text)
    except ConfigError as error:
        raise ConfigError(error.issues, source_path) from None
    scope = new_scope(environ)
    settings = read_reach(Table(tables, (), scope), source_path, os.getuid())
    raise_problems(scope.problems, text, source_path)
    return settings


def _parse_what_reaches(text: str) -> dict[str, Any]:
    """Parse ``text``; when a section beside ``[control]`` is no TOML, the rest of the file is enough."""
    try:
        return parse_toml(text)
    except ConfigError as error:
        line = error.issues[0].line
        rest = _without_other_sections(text, line) if line is not None else None
        if rest is None:
            raise
        return parse_toml(rest)


def _without_other_sections(text: str, broken_line: int) -> str | None:
    """Return ``text`` without the sections a client can do without; None unless the broken line is in one of them."""
    kept = []
    section = broken_section = ""
    for number, line in enumerate(text.split("\n"), 1):
        header = _SECTION.match(line)
        if header:
            section = header.group(1)
        elif line.lstrip().startswith("["):
            return None  # a header that cannot be read may be [control]
        if number == broken_line:
            broken_section = section
        # Left out, not cut out: the lines of what remains keep their numbers.
        kept.append("" if section in _SECTIONS_BESIDE_CONTROL else line)
    return "\n".join(kept) if broken_section in _SECTIONS_BESIDE_CONTROL else None


def _read(path: str, source_path: str) -> bytes:
    """Return at most one byte more than a config may have; raise ConfigError when ``path`` cannot be read."""
    try:
        # Not to wait for ever for the writer of a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(
                    whole_file_error(_not_a_file(descriptor), "name a config file with -c PATH").issues, source_path
                )
            return file.read(LARGEST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        message, fix = _cannot_read(error)
        raise ConfigError(whole_file_error(message, fix).issues, source_path) from error


def _not_a_file(descriptor: int) -> str:
    what = "a directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "not a regular file"
    return f"the path is {what}"


def _cannot_read(error: OSError | ValueError) -> tuple[str, str]:
    if isinstance(error, FileNotFoundError):
        return "there is no such file", "create it, or name another with -c PATH"
    if isinstance(error, IsADirectoryError):
        return "the path is a directory", "name a config file with -c PATH"
    if isinstance(error, PermissionError):
        return "the file may not be read by this user", "change its permissions, or run as the user who may read it"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "the path cannot be used"
    return f"the file cannot be read: {reason}", "name a readable config file with -c PATH"
