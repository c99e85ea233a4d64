"""From the bytes of a config file to TOML tables, whatever the bytes are."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from rollbridge.config.issues import ConfigError, ConfigIssue
from rollbridge.config.showing import show_text

# Far above any config one could maintain, and read and refused in no time.
LARGEST_FILE_BYTES = 1024 * 1024
# Reading a dotted key costs the square of its parts: 200 000 of them take all memory. Ours have three or four.
MOST_DOTS_ON_A_LINE = 32
_SHOWN_LINE_CHARACTERS = 70

# Strings and comments; one that is not closed runs to the end, so that each character is looked at once.
_TEXT_OR_COMMENT = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)'
    r"|'''.*?(?:'''|\Z)"
    r'|"(?:\\.|[^"\\\n])*"?'
    r"|'[^'\n]*'?"
    r"|\#[^\n]*",
    re.DOTALL,
)
_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")

# How tomllib's message begins; what to say instead, where it speaks of its own insides; what to do.
_SYNTAX: tuple[tuple[str, str, str], ...] = (
    (
        "Invalid value",
        "",
        'put text in double quotes: name = "text"; numbers, true, false, [...] and {...} stand bare',
    ),
    ("Expected '='", "", 'write settings as: name = "value", and sections as: [section]'),
    ("Expected ']", "", "close the name of the section: [section]"),
    ('Expected "\'"', "the string is not closed", "close it with the quote it was opened with"),
    ("Found invalid character", "the string is not closed", "close it on the line on which it was opened"),
    ("Unterminated string", "the string is not closed", "close it with the quote it was opened with"),
    ("Expected newline", "", "put each setting on a line of its own"),
    ("Cannot overwrite a value", "the setting is given a second time", "keep one of the two"),
    ("Duplicate inline table key", "the setting is given a second time", "keep one of the two"),
    ("Cannot declare", "the section is opened a second time", "join the two sections"),
    ("Cannot redefine", "the section is opened a second time", "join the two sections"),
    ("Cannot mutate", "the table was complete already", "join the settings into the one table"),
    ("Unclosed array", "the array is not closed", "close the array with ]"),
    ("Unclosed inline table", "the table is not closed", "close the table with }"),
    ("Unescaped '\\'", "", "write \\\\ for a backslash, or put the text in single quotes"),
    ("Illegal character", "", 'remove the character, or write it as an escape in double quotes: "\\n", "\\u0007"'),
    ("Invalid initial character", "", "use letters, digits, - and _ in names, or put the name in quotes"),
    ("Invalid statement", "", 'write settings as: name = "value", and sections as: [section]'),
)
_OTHER_SYNTAX_FIX = "correct the line; docs/configuration.md shows how every setting is written"


def decode(data: bytes) -> str:
    """Return the text of a config file, line ends as \\n; raise ConfigError when it is no text we would parse."""
    if len(data) > LARGEST_FILE_BYTES:
        raise whole_file_error(
            "the file is larger than 1 MiB", "name a rollbridge config file; a complete one has a few KiB"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise whole_file_error(
            f"byte 0x{data[error.start]:02x} is not UTF-8 text", "save the file in UTF-8", line
        ) from None
    return text.replace("\r\n", "\n")


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of ``text``; raise ConfigError with the line when it is not TOML."""
    _refuse_endless_keys(text)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax_issue(str(error), text)]) from None
    except RecursionError:
        raise whole_file_error(
            "arrays or tables are nested hundreds of levels deep", "nest at most a few levels; no setting needs more"
        ) from None
    except (ValueError, OverflowError):  # Python's own limit on the digits of a number
        match = re.search(r"[0-9_]{1000}", text)
        line = text.count("\n", 0, match.start()) + 1 if match else None
        raise whole_file_error(
            "a number has thousands of digits", "write a number that fits the setting", line
        ) from None


def whole_file_error(message: str, fix: str, line: int | None = None) -> ConfigError:
    return ConfigError([ConfigIssue("", message, fix, line)])


def _refuse_endless_keys(text: str) -> None:
    if all(line.count(".") <= MOST_DOTS_ON_A_LINE for line in text.split("\n")):
        return
    bare = _TEXT_OR_COMMENT.sub(lambda match: "\n" * match.group().count("\n") or " ", text)
    for number, line in enumerate(bare.split("\n"), 1):
        if line.count(".") > MOST_DOTS_ON_A_LINE:
            raise whole_file_error(
                f"the line has more than {MOST_DOTS_ON_A_LINE} dots outside quotes",
                "name sections by two or three parts: [processes.web]; put text in quotes",
                number,
            )


def _syntax_issue(error: str, text: str) -> ConfigIssue:
    position = _POSITION.search(error)
    what = error[: position.start()] if position else error
    lines = text.split("\n")
    if position and position.group(1):
        number = int(position.group(1))
        place = f", column {position.group(2)}"
    else:
        number = len(text.rstrip("\n").split("\n"))
        place = ", at the end of the file"
    quoted = lines[number - 1].strip() if number <= len(lines) else ""
    in_line = f": {show_text(quoted, _SHOWN_LINE_CHARACTERS)}" if quoted else ""
    said, fix = next(((said, fix) for start, said, fix in _SYNTAX if what.startswith(start)), ("", _OTHER_SYNTAX_FIX))
    # tomllib shows what it found by repr(), so that there is nothing left in it to escape.
    return ConfigIssue("", f"not TOML{place}: {said or what[:1].lower() + what[1:60]}{in_line}", fix, number)
