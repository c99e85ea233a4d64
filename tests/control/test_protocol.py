from __future__ import annotations

import json

import pytest

from rollbridge.control.protocol import (
    BadMessage,
    CommandError,
    LineReader,
    LineTooLong,
    decode,
    decode_request,
    encode,
    is_observing,
)


def test_a_message_is_one_line_and_comes_back_as_it_was() -> None:
    message: dict[str, object] = {"command": "deploy", "path": "/a\nb/\u00fc", "n": [1, None, True]}
    line = encode(message)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert decode(line[:-1]) == message


def test_a_path_that_is_not_utf8_survives() -> None:
    path = b"/srv/\xff".decode("utf-8", "surrogateescape")
    assert decode(encode({"path": path}))["path"] == path


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff{}", "not UTF-8"),
        (b"[]", "JSON array"),
        (b"null", "JSON null"),
        (b"true", "JSON boolean"),
        (b"1.5", "JSON number"),
        (b'"x"', "JSON string"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"n":' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_what_is_no_object_is_refused_with_the_reason(line: bytes, why: str) -> None:
    with pytest.raises(BadMessage, match=why):
        decode(line)


@pytest.mark.parametrize("line", [b"{}", b'{"command":7}', b'{"command":null}'])
def test_a_request_needs_a_command(line: bytes) -> None:
    with pytest.raises(BadMessage, match="command"):
        decode_request(line)


def test_only_what_follows_is_observing() -> None:
    assert is_observing({"command": "logs", "follow": True})
    assert not is_observing({"command": "logs", "follow": False})
    assert not is_observing({"command": "deploy"})


def test_an_error_answer_cannot_be_turned_into_a_success_by_its_data() -> None:
    answer = CommandError("no", 4, {"status": "success", "exit_code": 0, "phase": "health"}).answer()
    assert answer == {"status": "error", "error": "no", "exit_code": 4, "phase": "health"}


def test_lines_are_the_same_however_the_bytes_arrive() -> None:
    data = b'{"a":1}\n\n{"b":2}\nrest'
    for cut in range(len(data) + 1):
        reader = LineReader(100)
        lines = []
        for piece in (data[:cut], data[cut:]):
            reader.feed(piece)
            while (line := reader.next_line()) is not None:
                lines.append(line)
        assert lines == [b'{"a":1}', b"", b'{"b":2}']
        assert not reader.is_empty


def test_a_line_may_be_as_long_as_the_limit_and_no_longer() -> None:
    for length in (0, 1, 2, 9, 10):
        reader = LineReader(10)
        reader.feed(b"x" * length + b"\n")
        assert reader.next_line() == b"x" * length
    reader = LineReader(10)
    reader.feed(b"x" * 10)
    assert reader.next_line() is None
    reader.feed(b"x")
    with pytest.raises(LineTooLong):
        reader.next_line()
    reader = LineReader(10)
    reader.feed(b"x" * 11 + b"\n")
    with pytest.raises(LineTooLong):
        reader.next_line()


def test_encoding_never_makes_two_lines_of_one() -> None:
    assert json.loads(encode({"text": "a\u2028b\r\n"})) == {"text": "a\u2028b\r\n"}
    assert encode({"text": "a\u2028b\r\n"}).count(b"\n") == 1
