"""An ASGI app for uvicorn: ``/ping``, ``POST /echo``, a WebSocket echo, and its release and pid everywhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

RELEASE = os.environ.get("ROLLBRIDGE_RELEASE_ID", "?")
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(receive, send)
    else:
        await http(scope, receive, send)


async def lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def http(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    match scope["path"]:
        case "/ping":
            body = b"pong"
        case "/echo":
            body = b""
            more = True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
        case _:
            body = json.dumps({"release": RELEASE, "pid": os.getpid()}).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"x-release", RELEASE.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def websocket(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        match message["type"]:
            case "websocket.connect":
                await send({"type": "websocket.accept"})
            case "websocket.receive":
                text = f"{RELEASE}:{os.getpid()}:{message['text']}"
                await send({"type": "websocket.send", "text": text})
            case _:
                return
