"""A plain WebSocket client (RFC 6455): text messages, one at a time."""

from __future__ import annotations

import base64
import os
from types import TracebackType

from tests.support.http import CLIENT_TIMEOUT_SECONDS, ExchangeFailed, HttpConnection

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA


class WebSocket:
    """An open WebSocket; ``send`` and ``receive`` raise ExchangeFailed when it is cut."""

    def __init__(self, port: int, path: str = "/ws", timeout: float = CLIENT_TIMEOUT_SECONDS) -> None:
        self.connection = HttpConnection(port, timeout=timeout)
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        }
        response = self.connection.request("GET", path, headers=headers)
        if response.status != 101:
            self.connection.close()
            raise ExchangeFailed(f"WebSocket refused with {response.status}: {response.text[:80]!r}")

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection without a closing handshake, as a browser tab that is closed does."""
        self.connection.close()

    def send(self, text: str) -> None:
        self._send_frame(TEXT, text.encode())

    def receive(self) -> str:
        """The next text message; raises ExchangeFailed when the connection ends instead."""
        while True:
            first, second = self.connection.read_exactly(2)
            size = second & 0x7F
            if size == 126:
                size = int.from_bytes(self.connection.read_exactly(2), "big")
            elif size == 127:
                size = int.from_bytes(self.connection.read_exactly(8), "big")
            payload = self.connection.read_exactly(size)
            match first & 0x0F:
                case 0x1:
                    return payload.decode()
                case 0x8:
                    raise ExchangeFailed(f"closed by the app: {payload[2:].decode(errors='replace')}")
                case 0x9:
                    self._send_frame(PONG, payload)

    def echo(self, text: str) -> str:
        self.send(text)
        return self.receive()

    def _send_frame(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        if size < 126:
            head = bytes([0x80 | opcode, 0x80 | size])
        elif size < 65536:
            head = bytes([0x80 | opcode, 0x80 | 126]) + size.to_bytes(2, "big")
        else:
            head = bytes([0x80 | opcode, 0x80 | 127]) + size.to_bytes(8, "big")
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        self.connection.send(head + mask + masked)
