"""A WSGI app for gunicorn: ``/ping``, ``POST /echo``, and its release and pid everywhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

RELEASE = os.environ.get("ROLLBRIDGE_RELEASE_ID", "?")


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    match environ["PATH_INFO"]:
        case "/ping":
            body = b"pong"
        case "/echo":
            body = environ["wsgi.input"].read()
        case _:
            body = json.dumps({"release": RELEASE, "pid": os.getpid()}).encode()
    start_response("200 OK", [("Content-Length", str(len(body))), ("X-Release", RELEASE)])
    return [body]
