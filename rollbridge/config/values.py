"""Reads the kinds of values beyond text and whole numbers: durations, sizes, fractions, flags, choices, arrays.

Like the methods of Table: a wrong value is noted, and the default returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rollbridge.config.issues import BadValue
from rollbridge.config.reader import Default, Item, Table
from rollbridge.config.showing import show_text, show_value
from rollbridge.config.suggest import nearest
from rollbridge.config.units import duration_fix, parse_duration, parse_size


def duration(table: Table, key: str, default: float, *, is_positive: bool = False) -> float:
    default = float(default)
    value = table.raw(key)
    if value is None:
        return default
    if isinstance(value, int | float) and not isinstance(value, bool):
        table.note(key, f"duration {show_value(value)} has no unit", duration_fix(value))
        return default
    if not isinstance(value, str):
        table.note(key, f"{show_value(value)} is not a duration", f'write it in quotes with a unit: {key} = "30s"')
        return default
    seconds = table.accepted(key, value, parse_duration, default, f'write {key} = "30s"')
    if is_positive and seconds == 0:
        table.note(key, "a duration of 0 is too short here", f'choose more than zero, for example {key} = "30s"')
        return default
    return seconds


def size(table: Table, key: str, default: Default, minimum: int, maximum: int, example: str) -> int | Default:
    value = table.raw(key)
    if value is None:
        return default
    size: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str):
        size = table.accepted(key, value, parse_size, None, f'write {key} = "{example}"')
    else:
        table.note(key, f"{show_value(value)} is not a size", f'write {key} = "{example}"')
    if size is None:
        return default
    if not minimum <= size <= maximum:
        bound = f"below {minimum}" if size < minimum else f"above {maximum}"
        table.note(key, f"size {show_value(value)} is {bound} bytes", f'choose for example {key} = "{example}"')
        return default
    return size


def number(table: Table, key: str, default: float, minimum: float, maximum: float) -> float:
    """Return a number that may have a fraction; infinity and NaN are not within any limits."""
    value = table.raw(key)
    if value is None:
        return float(default)
    number: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str):
        number = table.accepted(key, value, _parse_number, None, "write a number, for example 2 or 1.5")
        if number is None:
            return default
    if number is None:
        table.note(key, f"{show_value(value)} is not a number", "write a number, for example 2 or 1.5")
        return default
    if not minimum <= number <= maximum:  # also false for NaN
        table.note(
            key,
            f"{show_value(value)} is not from {minimum:g} to {maximum:g}",
            f"choose a number from {minimum:g} to {maximum:g}",
        )
        return default
    return float(number)


def flag(table: Table, key: str, default: bool) -> bool:
    value = table.raw(key)
    if value is None or isinstance(value, bool):
        return default if value is None else value
    if isinstance(value, str):
        return table.accepted(key, value, _parse_flag, default, f"write {key} = true, or {key} = false")
    table.note(key, f"{show_value(value)} is neither true nor false", f"write {key} = true, or {key} = false")
    return default


def choice(table: Table, key: str, default: Default, choices: Mapping[str, Default]) -> Default:
    return table.parsed(key, default, next(iter(choices)), lambda text: _chosen(text, choices))


def texts(table: Table, key: str, example: str) -> tuple[str, ...]:
    """Return an array of texts, each expanded and not empty; empty when it is absent."""
    return items(table, key, example, lambda text: text)


def items(table: Table, key: str, example: str, parse: Callable[[str], Item]) -> tuple[Item, ...]:
    """Return ``parse`` of each text of the array under ``key``; it raises BadValue for what is wrong."""
    value = table.raw(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        table.note(key, f"{show_value(value)} is not an array", f"write {key} = {example}")
        return ()
    found = []
    for index, item in enumerate(value):
        if table.scope.is_full():
            break
        try:
            if not isinstance(item, str):
                raise BadValue(f"{show_value(item)} is not text", f"write {key} = {example}")
            found.append(parse(table.expanded(item, f"write {key} = {example}")))
        except BadValue as bad:
            table.scope.note((*table.path, key, index), bad.message, bad.fix)
    return tuple(found)


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadValue(f"{show_text(text)} is not a number", "write a number, for example 2 or 1.5") from None


def _parse_flag(text: str) -> bool:
    if text.strip() not in ("true", "false"):
        raise BadValue(f"{show_text(text)} is neither true nor false", "write true or false, without quotes")
    return text.strip() == "true"


def _chosen(text: str, choices: Mapping[str, Default]) -> Default:
    if text in choices:
        return choices[text]
    names = ", ".join(f'"{name}"' for name in choices)
    meant = nearest(text, choices)
    raise BadValue(
        f"{show_text(text)} is not one of {names}", f'did you mean "{meant}"?' if meant else "choose one of these"
    )
