"""Plain dicts to TOML, so that the helpers (and the benchmarks) run on a bare Python."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(tables: Mapping[str, Any]) -> str:
    """Render ``tables``; nested tables get headers, anything deeper than those stays inline."""
    lines = [f"{_key(name)} = {_value(value)}" for name, value in tables.items() if not isinstance(value, Mapping)]
    for name, value in tables.items():
        if isinstance(value, Mapping):
            lines += _table(_key(name), value)
    return "\n".join(lines) + "\n"


def _table(path: str, table: Mapping[str, Any]) -> list[str]:
    if path == "processes":
        return [line for name, value in table.items() for line in _table(f"{path}.{_key(name)}", value)]
    return ["", f"[{path}]", *(f"{_key(name)} = {_value(value)}" for name, value in table.items())]


def _key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {_value(item)}" for name, item in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    # A TOML basic string escapes as JSON does, except that DEL is not allowed raw.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
