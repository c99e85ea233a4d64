"""The dotenv syntax: text to variables. Pure, and it never quotes what it reads: every value may be a secret.

One ``NAME=value`` a line; ``export`` before it, blanks around ``=``, empty lines and ``#`` comments are allowed. A bare
value ends with its line, or at a ``#`` after a blank. Within single quotes everything is literal, within double
quotes ``\\n \\r \\t \\\\ \\" \\$`` are escapes; quoted values may have several lines. ``$`` is never expanded: what
a program prints as its secrets must reach the process as it is.
"""

from __future__ import annotations

import re

_ASSIGNMENT = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*")
_BETWEEN = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_BARE = re.compile(r"[^\n]*")
_REST_OF_LINE = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|$)")
_COMMENT = re.compile(r"(?:^|[ \t])#.*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "$": "$"}


class BadLine(Exception):
    """The operator's turn: what stands in line ``number`` (from 1) is no assignment; ``why`` holds none of it."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number} {why}")
        self.number = number


def parse_dotenv(text: str) -> dict[str, str]:
    """Return the variables of ``text``, the last of a name; raise BadLine at the first that cannot be read."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    variables = {}
    position = _end(_BETWEEN, text, 0)
    while position < len(text):
        start = position
        assignment = _ASSIGNMENT.match(text, position)
        if assignment is None:
            raise _bad(text, start, "is not NAME=value")
        name = assignment[1]
        value, position = _read_value(text, assignment.end())
        if "\0" in value:
            raise _bad(text, start, "has a NUL character in its value")
        if name == "ROLLBRIDGE_INSTANCE":
            raise _bad(text, start, "sets ROLLBRIDGE_INSTANCE, which is how rollbridge knows its processes")
        variables[name] = value
        position = _end(_BETWEEN, text, position)
    return variables


def _read_value(text: str, position: int) -> tuple[str, int]:
    """Return the value that begins at ``position``, and where the next line begins."""
    quote = text[position : position + 1]
    if quote not in ("'", '"') or not quote:
        bare = _BARE.match(text, position)
        assert bare is not None, "an empty value is one too"
        return _COMMENT.sub("", bare[0]).rstrip(), bare.end()
    quoted = (_SINGLE if quote == "'" else _DOUBLE).match(text, position)
    if quoted is None:
        raise _bad(text, position, "opens a quote that is not closed")
    rest = _REST_OF_LINE.match(text, quoted.end())
    if rest is None:
        raise _bad(text, quoted.end(), "goes on after the closing quote")
    value = quoted[1] if quote == "'" else _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[0]), quoted[1])
    return value, rest.end()


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return position if found is None else found.end()


def _bad(text: str, position: int, why: str) -> BadLine:
    return BadLine(text.count("\n", 0, position) + 1, why)
