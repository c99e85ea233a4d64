"""The grammar that request heads, response heads and trailers share (RFC 9110 section 5, RFC 9112 section 5)."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

Field: TypeAlias = tuple[bytes, bytes]  # name as written, value without surrounding blanks

TOKEN_CLASS: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# Blanks, visible ASCII and obs-text: no CR, LF, NUL or any other control character.
VALUE_CLASS: Final = rb"[\t -~\x80-\xff]"
# Single classes are repeated possessively, so that nothing within a line is ever tried again. Groups are not: up to
# Python 3.11.4 a possessive group keeps what its last, failed round has consumed (CPython gh-106052), which here would
# take a line without a colon for the end of the head. A greedy group gives back whole lines, and as no line starts with
# what follows the group, each of them fails at its first byte: still linear.
FIELD_LINES: Final = rb"(?:" + TOKEN_CLASS + rb"++:" + VALUE_CLASS + rb"*+\r\n)*"

TOKEN: Final = re.compile(TOKEN_CLASS + rb"++")
FIELD_BLOCK: Final = re.compile(FIELD_LINES)
CONTENT_LENGTH: Final = re.compile(rb"[0-9]{1,18}")  # 18 digits fit a signed 64-bit number

# What may not stand anywhere in a head: controls, a CR that starts no CRLF, an LF that ends none.
FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?=[^\n])|(?<!\r)\n")

# More fields than any client sends; without it a 64 KiB head is 16,000 fields to walk over.
MAX_FIELDS: Final = 500

# Nearly every Connection field is one of these.
_SINGLE: Final = frozenset({b"keep-alive", b"close"})
# Those that name no field.
_USUAL_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade", b"te"})
_SPLIT: Final = re.compile(rb"([^:\r\n]++):[ \t]*+([^\r\n]*+)\r\n")


def split_fields(data: bytes, start: int, end: int) -> list[Field]:
    """Split the field lines ``data[start:end]``, which FIELD_LINES must have matched, in wire order."""
    fields: list[Field] = _SPLIT.findall(data, start, end)
    if data.find(b" \r\n", start, end) >= 0 or data.find(b"\t\r\n", start, end) >= 0:
        return [(name, value.rstrip(b" \t")) for name, value in fields]
    return fields


def list_items(value: bytes) -> list[bytes]:
    """Split a comma-separated value into its lowercased members; empty members are left out."""
    if value in _SINGLE:
        return [value]
    return [item for item in (part.strip(b" \t").lower() for part in value.split(b",")) if item]


def join_values(former: bytes | None, value: bytes) -> bytes:
    """Join the values of a repeated field into one list (RFC 9110, section 5.3)."""
    return former + b", " + value if former and value else former or value


def join_fields(fields: list[Field]) -> bytes:
    """Serialise fields as lines, without the empty line that ends a head."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def without_named(fields: list[Field], options: list[bytes]) -> list[Field]:
    """Take out the fields that Connection names as meant for this hop only (RFC 9110, section 7.6.1)."""
    named = [option for option in options if option not in _USUAL_OPTIONS]
    return [field for field in fields if field[0].lower() not in named] if named else fields
