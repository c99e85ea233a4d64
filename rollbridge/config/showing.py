"""How a value of the config is shown in a message: one line, bounded, nothing that could act on a terminal."""

from __future__ import annotations

import re

Path = tuple[str | int, ...]  # of a setting: ("processes", "web", "command", 0)

SHOWN_CHARACTERS = 60  # with a path and a sentence around it, a message stays within about two lines
_LARGEST_SHOWN_BITS = 200  # beyond 4300 digits Python refuses to print an int at all
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def show_text(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """Return ``text`` in double quotes, control characters escaped, cut after ``limit`` characters."""
    return f'"{escape(text, limit)}"'


def escape(text: str, limit: int) -> str:
    """Return ``text`` with its control characters escaped, cut after ``limit`` characters as shown."""
    shown = ""
    for character in text[: limit + 1]:
        one = _shown_character(character)
        if len(shown) + len(one) > limit:
            return shown + "…"
        shown += one
    return shown


def _shown_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def show_value(value: object) -> str:
    """Return a TOML value as it would be written; arrays and tables by their kind only."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return show_text(value)
    if isinstance(value, int) and value.bit_length() > _LARGEST_SHOWN_BITS:
        return "a very large number"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return "an array" if value else "an empty array"
    if isinstance(value, dict):
        return "a table" if value else "an empty table"
    return f"the date or time {value}"


def dotted(path: Path) -> str:
    """Return ``path`` as it is written in messages: ``legacy_takeover.processes[0].name``."""
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
            continue
        key = part if _BARE_KEY.fullmatch(part) and len(part) <= SHOWN_CHARACTERS else show_text(part)
        shown += f".{key}" if shown else key
    return shown
