"""The shared grammar, and a rule about how it is written."""

from __future__ import annotations

import re

import pytest

from rollbridge.proxy import chunked, fields, head, response_head
from rollbridge.proxy.fields import FIELD_BLOCK, join_fields, join_values, list_items, split_fields


@pytest.mark.parametrize("module", [fields, head, response_head, chunked], ids=lambda module: module.__name__)
def test_no_group_is_repeated_possessively(module: object) -> None:
    """Python up to 3.11.4, Debian 12's among them, matches too much with such a group (CPython gh-106052)."""
    patterns = [value for value in vars(module).values() if isinstance(value, re.Pattern)]
    assert patterns
    for pattern in patterns:
        without_classes = re.sub(rb"\[(?:\\.|[^\]])*\]", b"", pattern.pattern)
        assert not re.search(rb"\)(?:[*+?]|\{[0-9,]*\})\+", without_classes)


@pytest.mark.parametrize(
    "line", [b"abc\r\n", b"X\r\n", b"X :y\r\n", b"X: \x00\r\n", b":\r\n", b"X: y\n", b"X: y\r", b" X: y\r\n"]
)
def test_a_line_that_is_no_field_ends_the_block_before_it(line: bytes) -> None:
    match = FIELD_BLOCK.match(b"A: b\r\n" + line)
    assert match is not None
    assert match.end() == len(b"A: b\r\n")


def test_fields_are_split_and_joined_without_loss() -> None:
    data = b"A:b\r\nC: \t d e \t\r\nF:\r\n"
    split = split_fields(data, 0, len(data))
    assert split == [(b"A", b"b"), (b"C", b"d e"), (b"F", b"")]
    assert join_fields(split) == b"A: b\r\nC: d e\r\nF: \r\n"
    assert split_fields(b"xx" + data + b"yy", 2, 2 + len(data)) == split


def test_lists_are_read_without_empty_members() -> None:
    assert list_items(b" A ,,b\t, ") == [b"a", b"b"]
    assert list_items(b"keep-alive") == [b"keep-alive"]
    assert list_items(b"") == []
    assert join_values(None, b"a") == b"a"
    assert join_values(b"a", b"b") == b"a, b"
    assert join_values(b"a", b"") == b"a"
    assert join_values(b"", b"b") == b"b"
