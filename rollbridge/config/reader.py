"""Reads values out of TOML tables: right type, expanded, within limits; what is wrong is noted and reading goes on.

Every method returns the default when the value is absent or wrong, so that one pass finds every problem. Kinds of
values that a client command does not need are read in values.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

from rollbridge.config import templates
from rollbridge.config.issues import BadValue
from rollbridge.config.showing import Path, dotted, show_text, show_value

MOST_PROBLEMS = 200  # beyond any honest mistake; a hostile file of 1 MiB can have a hundred thousand
_MOST_UNKNOWN_KEYS_SHOWN = 20  # in one table; a file of another program can have thousands

Default = TypeVar("Default")
Item = TypeVar("Item")


class Problem(NamedTuple):
    path: Path
    message: str
    fix: str


class Scope(NamedTuple):
    """What templates outside of process definitions may name, and where problems are noted."""

    values: dict[str, str]
    environ: Mapping[str, str]
    problems: list[Problem]
    absent: Mapping[str, BadValue]

    def is_full(self) -> bool:
        """Whether there are more problems than anyone is told at once: time to stop looking for more."""
        return len(self.problems) > MOST_PROBLEMS

    def note(self, path: Path, message: str, fix: str) -> None:
        self.problems.append(Problem(path, message, fix))


def new_scope(environ: Mapping[str, str]) -> Scope:
    absent = {
        name: BadValue(
            f"{{{{{name}}}}} is known only when a process starts",
            "use {{application}} or {{env.NAME}} here; the others belong to command, cwd, env and hooks",
        )
        for name in templates.START_NAMES
    }
    return Scope({}, environ, [], absent)


class Table:
    """One TOML table and where it stands; ``finish`` reports the keys nobody asked for."""

    def __init__(self, values: Mapping[str, Any], path: Path, scope: Scope) -> None:
        self.values = values
        self.path = path
        self.scope = scope
        self._known: dict[str, None] = {}

    def has(self, key: str) -> bool:
        return key in self.values

    def note(self, key: str, message: str, fix: str) -> None:
        self.scope.note((*self.path, key), message, fix)

    def raw(self, key: str) -> Any:
        self._known[key] = None
        return self.values.get(key)

    def table(self, key: str, example: str) -> Table:
        """Return the table under ``key``; an empty one when it is absent or something else."""
        value = self.raw(key)
        if value is None or isinstance(value, dict):
            return Table(value or {}, (*self.path, key), self.scope)
        self.note(key, f"{show_value(value)} is not a table", f"write a section, for example {example}")
        return Table({}, (*self.path, key), self.scope)

    def text(self, key: str, default: Default, example: str) -> str | Default:
        """Return the text under ``key``, expanded; never empty."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, str):
            return self.accepted(key, value, lambda text: text, default, f"write {key} = {show_text(example)}")
        self.note(key, f"{show_value(value)} is not text", f"write text in quotes: {key} = {show_text(example)}")
        return default

    def parsed(self, key: str, default: Default, example: str, parse: Callable[[str], Item]) -> Item | Default:
        """Return ``parse`` of the expanded text under ``key``; it raises BadValue for what is wrong."""
        text = self.text(key, None, example)
        return default if text is None else self.attempt(key, lambda: parse(text), default)

    def integer(self, key: str, default: Default, minimum: int, maximum: int) -> int | Default:
        value = self.raw(key)
        return default if value is None else self.as_integer(key, value, default, minimum, maximum)

    def as_integer(self, key: str, value: Any, default: Default, minimum: int, maximum: int) -> int | Default:
        """Return ``value``, a number or text that expands to one, when it is within its limits."""
        number: int | None = None
        if isinstance(value, int) and not isinstance(value, bool):
            number = value
        elif isinstance(value, str):
            number = self.accepted(key, value, _parse_integer, None, f"write a number from {minimum} to {maximum}")
            if number is None:
                return default
        else:
            self.note(
                key, f"{show_value(value)} is not a whole number", f"write a whole number from {minimum} to {maximum}"
            )
            return default
        if not minimum <= number <= maximum:
            bound = f"below {minimum}" if number < minimum else f"above {maximum}"
            self.note(key, f"{show_value(number)} is {bound}", f"choose a number from {minimum} to {maximum}")
            return default
        return number

    def finish(self, elsewhere: Collection[str] = ()) -> None:
        """Report every key that was not asked for, except those of ``elsewhere``."""
        unknown = [key for key in self.values if key not in self._known and key not in elsewhere]
        for key in unknown[:_MOST_UNKNOWN_KEYS_SHOWN]:
            self.note(key, f"there is no setting {show_text(key, 40)} here", self._key_fix(key))
        if len(unknown) > _MOST_UNKNOWN_KEYS_SHOWN:
            key = unknown[_MOST_UNKNOWN_KEYS_SHOWN]
            self.note(
                key,
                f"there are {len(unknown) - _MOST_UNKNOWN_KEYS_SHOWN} more unknown settings from here on",
                "remove them; check that this is the config file of rollbridge",
            )

    def _key_fix(self, key: str) -> str:
        from rollbridge.config.suggest import nearest  # only for a file with mistakes: see templates.py

        meant = nearest(key, self._known)
        if meant and meant not in self.values:
            return f"did you mean {meant}?"
        place = dotted(self.path) or "the top of the file"
        return f"remove it; {place} can have {', '.join(sorted(self._known))}"

    def expanded(self, template: str, fix_when_empty: str) -> str:
        """Return the expansion of ``template``; raise BadValue when it fails or nothing is left."""
        text = templates.expand(template, self.scope.values, self.scope.environ, self.scope.absent)
        check_text(text)
        if not text.strip():
            what = "the text is empty" if not template.strip() else f"{show_text(template)} is empty once expanded"
            raise BadValue(what, f"{fix_when_empty}, or remove the line")
        return text

    def accepted(
        self, key: str, template: str, parse: Callable[[str], Item], default: Default, fix_when_empty: str
    ) -> Item | Default:
        """Return ``parse`` of the expansion of ``template``, or note why not and return ``default``."""
        return self.attempt(key, lambda: parse(self.expanded(template, fix_when_empty)), default)

    def attempt(self, key: str, accept: Callable[[], Item], default: Default) -> Item | Default:
        try:
            return accept()
        except BadValue as bad:
            self.note(key, bad.message, bad.fix)
            return default


def check_text(text: str) -> None:
    """Raise BadValue for characters that no setting can hold."""
    if "\0" in text:
        raise BadValue(f"{show_text(text)} has a NUL character in it", "remove the \\u0000")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadValue(
            f"{show_text(text)} expands to bytes that are not UTF-8", "correct the environment variable it names"
        )


def _parse_integer(text: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.removeprefix("-").isdigit() and len(digits) < 20):
        raise BadValue(f"{show_text(text)} is not a whole number", "write a number such as 8182")
    return int(digits)
