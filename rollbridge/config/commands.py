"""Reads commands and other texts that are templates for the start of a process: kept as they are written."""

from __future__ import annotations

from typing import Any

from rollbridge.config.issues import BadValue
from rollbridge.config.reader import Table, check_text
from rollbridge.config.showing import show_text, show_value


def start_template(table: Table, key: str, value: Any, default: str, example: str) -> str:
    """Return ``value`` as written when it can be a template for the start of a process."""
    if value is None:
        return default
    try:
        if not isinstance(value, str):
            raise BadValue(f"{show_value(value)} is not text", f"write text in quotes: {key} = {show_text(example)}")
        check_text(value)
        if not value.strip():
            raise BadValue("the text is empty", f"write {key} = {show_text(example)}, or remove the line")
    except BadValue as bad:
        table.note(key, bad.message, bad.fix)
        return default
    return value


def read_command(table: Table) -> str | tuple[str, ...]:
    """Return the command of a process; noted when it is missing."""
    if table.raw("command") is None:
        table.note("command", "command is missing", 'add command = "gunicorn app:app", or an array of its words')
        return "missing"
    return read_words(table, "command", ("gunicorn", "app:app"))


def read_words(table: Table, key: str, example_words: tuple[str, ...]) -> str | tuple[str, ...]:
    """Return what is given under ``key``: text for a shell, or an array of words that runs directly."""
    value = table.raw(key)
    text = " ".join(example_words)
    if isinstance(value, str):
        return start_template(table, key, value, "missing", text)
    example = f"{key} = {show_text(text)} or {key} = [{', '.join(map(show_text, example_words))}]"
    if not isinstance(value, list):
        table.note(key, f"{show_value(value)} is neither text nor an array", f"write {example}")
        return "missing"
    words = []
    for index, word in enumerate(value):
        if table.scope.is_full():
            break
        path = (*table.path, key, index)
        try:
            if not isinstance(word, str):
                raise BadValue(
                    f"{show_value(word)} is not text", f"put it in quotes: {show_text(str(show_value(word)))}"
                )
            check_text(word)
            words.append(word)
        except BadValue as bad:
            table.scope.note(path, bad.message, bad.fix)
    if not value or (isinstance(value[0], str) and not value[0].strip()):
        table.note(key, "the array does not name a program", f"write {example}")
    return tuple(words) or "missing"
