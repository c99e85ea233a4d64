from __future__ import annotations

import time

import pytest

from rollbridge.config.issues import ConfigError, ConfigIssue
from rollbridge.config.source import LARGEST_FILE_BYTES, decode, parse_toml


def issue_of_bytes(data: bytes) -> ConfigIssue:
    with pytest.raises(ConfigError) as caught:
        parse_toml(decode(data))
    (issue,) = caught.value.issues
    return issue


def test_text_with_a_byte_order_mark_and_windows_line_ends_is_read() -> None:
    assert parse_toml(decode(b'\xef\xbb\xbfa = 1\r\nb = "x"\r\n')) == {"a": 1, "b": "x"}


def test_bytes_that_are_not_utf_8_are_told_with_their_line() -> None:
    issue = issue_of_bytes(b"a = 1\nb = '\xff'\n")
    assert issue == ConfigIssue("", "byte 0xff is not UTF-8 text", "save the file in UTF-8", 2)


@pytest.mark.parametrize(
    ("text", "line", "message", "fix"),
    [
        ("a = hello", 1, "invalid value", 'name = "text"'),
        ("a = 1\n\nb\n", 3, "expected '='", "name ="),
        ("a = 1 b = 2", 1, "expected newline", "line of its own"),
        ("a = 1\na = 2\nb = 3", 2, "the setting is given a second time", "keep one"),
        ("[a]\n[b]\n[a]\n", 3, "the section is opened a second time", "join the two sections"),
        ("a = 'x", 1, "the string is not closed", "close it with"),
        ("a = 'x\ny'", 1, "the string is not closed", "close it on the line"),
        ('a = """x\n\n\n', 1, "the string is not closed", "close it with"),
        ("a = [1,\n2", 2, "the array is not closed", "close the array"),
        ('a = "C:\\dir"', 1, "unescaped '\\'", "single quotes"),
        ("a = {b = 1, b = 2}", 1, "given a second time", "keep one"),
        ("[a]\nb = {c = 1}\nb.d = 2", 3, "the table was complete already", "join the settings"),
        ("[a.b]\nc = 1\n[a]\nb.d = 1", 4, "second time", "join"),
        ("= 1", 1, "invalid statement", "[section]"),
        ("[a\nb = 1", 1, "expected ']'", "[section]"),
        ("a = 1979-02-30", 1, "invalid date or datetime", ""),
    ],
)
def test_syntax_error_is_told_with_line_text_and_fix(text: str, line: int, message: str, fix: str) -> None:
    issue = issue_of_bytes(text.encode())
    # The line of an unfinished document is that of its end, or of its beginning on newer Pythons.
    assert issue.line == line or "end of the file" in issue.message
    assert message in issue.message
    assert fix in issue.fix


def test_syntax_error_quotes_no_more_than_a_part_of_one_line() -> None:
    issue = issue_of_bytes(b"a = " + b"x" * 5000 + b"\nsecret = 1\n")
    assert len(issue.message) < 200
    assert "secret" not in issue.message


def test_control_characters_are_not_repeated() -> None:
    issue = issue_of_bytes(b'a = "\x1b[2J"\n')
    assert "\x1b" not in issue.text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a = " + b"[" * 50_000, "nested hundreds of levels deep"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "nested hundreds of levels deep"),
        (b"a = " + b"{a = " * 5000, "nested hundreds of levels deep"),
        (b"a = 1\nb = " + b"9" * 10_000, "a number has thousands of digits"),
        (b"a" + b".a" * 100_000 + b" = 1", "more than 32 dots"),
        (b"[a" + b".a" * 100_000 + b"]", "more than 32 dots"),
        (b"x" * (LARGEST_FILE_BYTES + 1), "larger than 1 MiB"),
        (b"\0" * 1000, "not TOML"),
        (b"\xff" * LARGEST_FILE_BYTES, "byte 0xff is not UTF-8"),
        (b'"' * LARGEST_FILE_BYTES, ""),
        (b"'''" * 100_000, ""),
        (b'"""\\"' * 100_000, ""),
        (b"a.'" * 100_000, ""),
    ],
)
def test_hostile_file_is_refused_in_no_time(data: bytes, message: str) -> None:
    started = time.monotonic()
    issue = issue_of_bytes(data)
    assert message in issue.message
    assert len(issue.message) < 300
    assert time.monotonic() - started < 5  # a fraction of a second; the bound is for a loaded machine


def test_dots_within_text_do_not_count() -> None:
    dots = "." * 500
    text = f"a = \"{dots}\" # {dots}\nb = \"\"\"\n{dots}\n\"\"\"\nc = '{dots}'\nd = '''{dots}'''\n"
    assert parse_toml(text)["a"] == dots


def test_line_of_endless_dots_is_told() -> None:
    assert issue_of_bytes(b'x = """\n....\n"""\na' + b".a" * 40 + b" = 1").line == 4


def test_line_of_a_number_of_thousands_of_digits_is_told() -> None:
    assert issue_of_bytes(b"a = 1\nb = " + b"9" * 10_000).line == 2
