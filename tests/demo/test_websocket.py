from __future__ import annotations

import pytest

from rollbridge.demo.websocket import (
    BadFrame,
    CloseCode,
    Message,
    MessageReader,
    Opcode,
    accept_key,
    apply_mask,
    close_code,
    encode_close,
    encode_frame,
    is_handshake_key,
)

MASK = b"\x01\x02\x03\x04"


def test_accept_key_is_that_of_the_rfc_example() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("key", "is_key"), [("dGhlIHNhbXBsZSBub25jZQ==", True), ("c2hvcnQ=", False), ("?", False), ("", False)]
)
def test_handshake_key_is_16_bytes_of_base64(key: str, is_key: bool) -> None:
    assert is_handshake_key(key) is is_key


def test_masking_twice_gives_the_payload_back() -> None:
    for size in (0, 1, 3, 4, 5, 1000):
        payload = bytes(range(256)) * 4
        assert apply_mask(apply_mask(payload[:size], MASK), MASK) == payload[:size]


def test_masked_hello_is_that_of_the_rfc_example() -> None:
    assert encode_frame(Opcode.TEXT, b"Hello", mask=b"\x37\xfa\x21\x3d") == bytes.fromhex("818537fa213d7f9f4d5158")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
@pytest.mark.parametrize("mask", [None, MASK])
def test_message_of_any_size_survives_the_round_trip(size: int, mask: bytes | None) -> None:
    reader = MessageReader(expects_mask=mask is not None)
    assert reader.feed(encode_frame(Opcode.BINARY, b"x" * size, mask=mask)) == [Message(Opcode.BINARY, b"x" * size)]


def test_messages_are_the_same_however_the_bytes_arrive() -> None:
    data = encode_frame(Opcode.TEXT, b"one", mask=MASK) + encode_frame(Opcode.BINARY, b"y" * 200, mask=MASK)
    for cut in range(len(data)):
        reader = MessageReader(expects_mask=True)
        messages = reader.feed(data[:cut]) + reader.feed(data[cut:])
        assert messages == [Message(Opcode.TEXT, b"one"), Message(Opcode.BINARY, b"y" * 200)]


def test_fragments_become_one_message_and_a_ping_between_them_comes_first() -> None:
    reader = MessageReader(expects_mask=False)
    data = encode_frame(Opcode.TEXT, b"\xc3", is_final=False)  # a letter cut in half is no error between fragments
    data += encode_frame(Opcode.PING, b"?") + encode_frame(Opcode.CONTINUATION, b"\xa4")
    assert reader.feed(data) == [Message(Opcode.PING, b"?"), Message(Opcode.TEXT, "ä".encode())]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\xc1\x00", CloseCode.PROTOCOL_ERROR),  # a reserved bit
        (b"\x83\x00", CloseCode.PROTOCOL_ERROR),  # an unknown opcode
        (b"\x81\x80" + MASK, CloseCode.PROTOCOL_ERROR),  # masked, though it comes from a server
        (b"\x09\x00", CloseCode.PROTOCOL_ERROR),  # a fragmented ping
        (b"\x89\x7e\x00\x7e", CloseCode.PROTOCOL_ERROR),  # a long ping
        (b"\x80\x00", CloseCode.PROTOCOL_ERROR),  # continues nothing
        (b"\x01\x00\x81\x00", CloseCode.PROTOCOL_ERROR),  # begins inside an unfinished message
        (encode_frame(Opcode.TEXT, b"\xff"), CloseCode.BAD_DATA),
        (encode_frame(Opcode.BINARY, b"x" * 11), CloseCode.TOO_BIG),
        (
            encode_frame(Opcode.BINARY, b"x" * 6, is_final=False) + encode_frame(Opcode.CONTINUATION, b"x" * 5),
            CloseCode.TOO_BIG,
        ),
        (b"\x82\x7f" + b"\xff" * 8, CloseCode.TOO_BIG),
    ],
)
def test_broken_frame_is_refused_with_its_code(frame: bytes, code: CloseCode) -> None:
    with pytest.raises(BadFrame) as refusal:
        MessageReader(expects_mask=False, max_message_bytes=10).feed(frame)
    assert refusal.value.code is code


def test_unmasked_frame_is_refused_at_a_server() -> None:
    with pytest.raises(BadFrame):
        MessageReader(expects_mask=True).feed(encode_frame(Opcode.TEXT, b"x"))


def test_close_carries_its_code() -> None:
    (message,) = MessageReader(expects_mask=False).feed(encode_close(CloseCode.GOING_AWAY, "bye"))
    assert close_code(message.data) == CloseCode.GOING_AWAY
    assert close_code(b"") is None


@pytest.mark.parametrize("payload", [b"\x03", b"\x03\xe7", b"\x03\xed", b"\x0b\xb7", b"\x13\x88", b"\x03\xe8\xff"])
def test_close_with_a_code_that_may_not_be_sent_is_refused(payload: bytes) -> None:
    with pytest.raises(BadFrame):
        close_code(payload)
