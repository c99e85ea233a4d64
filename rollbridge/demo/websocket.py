"""WebSocket frames and messages as values (RFC 6455): what the sample app and the demo's clients speak."""

from __future__ import annotations

import base64
import enum
import hashlib
from dataclasses import dataclass
from typing import Final

# Fixed by RFC 6455, section 1.3: proves that the server understood the handshake.
HANDSHAKE_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# A sample app has no use for more, and an unbounded message is memory given to strangers.
MAX_MESSAGE_BYTES: Final = 1024 * 1024
MAX_CONTROL_BYTES: Final = 125  # RFC 6455, section 5.5


class Opcode(enum.IntEnum):
    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA

    @property
    def is_control(self) -> bool:
        return self >= Opcode.CLOSE


class CloseCode(enum.IntEnum):
    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    BAD_DATA = 1007
    TOO_BIG = 1009


class BadFrame(Exception):
    """The peer broke the protocol; ``code`` is what to close with."""

    def __init__(self, message: str, code: CloseCode = CloseCode.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Message:
    """One whole message: TEXT or BINARY put together from its fragments, or a control frame."""

    opcode: Opcode
    data: bytes


@dataclass(frozen=True, slots=True)
class Frame:
    is_final: bool
    opcode: Opcode
    payload: bytes


def accept_key(key: str) -> str:
    """The ``Sec-WebSocket-Accept`` that answers ``key`` (RFC 6455, section 4.2.2)."""
    digest = hashlib.sha1((key + HANDSHAKE_GUID).encode("ascii", "replace"), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def is_handshake_key(key: str) -> bool:
    """Whether ``key`` is the base64 of 16 bytes, as a client must send it."""
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    """XOR ``payload`` with the 4-byte ``mask``, repeated; masking and unmasking are the same."""
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


def encode_frame(opcode: Opcode, payload: bytes, *, mask: bytes | None = None, is_final: bool = True) -> bytes:
    """One frame. A client must give a ``mask`` of 4 unpredictable bytes, a server none."""
    mask_bit = 0x80 if mask is not None else 0
    head = bytearray([(0x80 if is_final else 0) | opcode])
    size = len(payload)
    if size <= 125:
        head.append(mask_bit | size)
    elif size <= 0xFFFF:
        head.append(mask_bit | 126)
        head += size.to_bytes(2, "big")
    else:
        head.append(mask_bit | 127)
        head += size.to_bytes(8, "big")
    if mask is None:
        return bytes(head) + payload
    return bytes(head) + mask + apply_mask(payload, mask)


def encode_close(code: CloseCode, reason: str = "", *, mask: bytes | None = None) -> bytes:
    payload = int(code).to_bytes(2, "big") + reason.encode("utf-8")[: MAX_CONTROL_BYTES - 2]
    return encode_frame(Opcode.CLOSE, payload, mask=mask)


def close_code(payload: bytes) -> int | None:
    """The code that a close frame carries; None when it carries none. Raises BadFrame for one that may not be sent."""
    if not payload:
        return None
    if len(payload) == 1:
        raise BadFrame("a close frame holds one byte, which is half a code")
    code = int.from_bytes(payload[:2], "big")
    if not (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) and not 3000 <= code <= 4999:
        raise BadFrame(f"close code {code} may not be sent")
    check_utf8(payload[2:])
    return code


def check_utf8(data: bytes) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadFrame("text is not UTF-8", CloseCode.BAD_DATA) from None


class MessageReader:
    """Bytes in, whole messages out; ``expects_mask`` is True at a server and False at a client."""

    def __init__(self, *, expects_mask: bool, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._expects_mask = expects_mask
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()
        self._fragments: list[bytes] = []
        self._fragments_opcode: Opcode | None = None

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes, in order. Raises BadFrame."""
        self._buffer += data
        messages = []
        while (frame := self._next_frame()) is not None:
            message = self._accept(frame)
            if message is not None:
                messages.append(message)
        return messages

    def _next_frame(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        if buffer[0] & 0x70:
            raise BadFrame("a reserved bit is set, and no extension was agreed on")
        try:
            opcode = Opcode(buffer[0] & 0x0F)
        except ValueError:
            raise BadFrame(f"opcode {buffer[0] & 0x0F:#x} is not known") from None
        is_final = bool(buffer[0] & 0x80)
        if bool(buffer[1] & 0x80) is not self._expects_mask:
            raise BadFrame("a client must mask its frames, a server must not")
        size, start = buffer[1] & 0x7F, 2
        if opcode.is_control and (size > MAX_CONTROL_BYTES or not is_final):
            raise BadFrame("a control frame is at most 125 bytes and never fragmented")
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(buffer) < start:
                return None
            size = int.from_bytes(buffer[2:start], "big")
        if size + sum(map(len, self._fragments)) > self._max_message_bytes:
            raise BadFrame(f"a message is at most {self._max_message_bytes} bytes", CloseCode.TOO_BIG)
        payload_at = start + (4 if self._expects_mask else 0)
        if len(buffer) < payload_at + size:
            return None
        payload = bytes(buffer[payload_at : payload_at + size])
        if self._expects_mask:
            payload = apply_mask(payload, bytes(buffer[start:payload_at]))
        del buffer[: payload_at + size]
        return Frame(is_final, opcode, payload)

    def _accept(self, frame: Frame) -> Message | None:
        if frame.opcode.is_control:
            return Message(frame.opcode, frame.payload)
        if (frame.opcode is Opcode.CONTINUATION) is (self._fragments_opcode is None):
            raise BadFrame("a continuation must follow an unfinished message, and only a continuation may")
        if self._fragments_opcode is None:
            self._fragments_opcode = frame.opcode
        self._fragments.append(frame.payload)
        if not frame.is_final:
            return None
        message = Message(self._fragments_opcode, b"".join(self._fragments))
        self._fragments, self._fragments_opcode = [], None
        if message.opcode is Opcode.TEXT:
            check_utf8(message.data)
        return message
