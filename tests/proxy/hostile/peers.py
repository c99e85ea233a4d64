"""nginx and HAProxy as reverse proxies before a recording application."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

START_SECONDS: Final = 10.0

_NGINX: Final = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off; large_client_header_buffers 8 64k;
    client_body_temp_path {directory}/1; proxy_temp_path {directory}/2; fastcgi_temp_path {directory}/3;
    uwsgi_temp_path {directory}/4; scgi_temp_path {directory}/5;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream_port};
            proxy_http_version 1.1; proxy_set_header Host $host; proxy_set_header Connection "";
            proxy_ignore_client_abort on;
        }}
    }}
}}
"""
_HAPROXY: Final = """
global
    maxconn 200
defaults
    mode http
    timeout connect 2s
    timeout client 3s
    timeout server 3s
frontend front
    bind 127.0.0.1:{port}
    default_backend back
backend back
    http-reuse never
    server one 127.0.0.1:{upstream_port}
"""


def _nginx(directory: Path) -> list[str]:
    return ["-p", str(directory), "-e", str(directory / "error.log"), "-c", str(directory / "config")]


def _haproxy(directory: Path) -> list[str]:
    return ["-db", "-f", str(directory / "config")]


_PEERS: Final[dict[str, tuple[str, Callable[[Path], list[str]], str]]] = {
    "nginx": (_NGINX, _nginx, "-v"),
    "haproxy": (_HAPROXY, _haproxy, "-v"),
}
NAMES: Final = tuple(_PEERS)


def program(name: str) -> str | None:
    """Path of the peer's program, or None where it is not installed."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def version(name: str) -> str:
    path = program(name)
    assert path is not None
    done = subprocess.run([path, _PEERS[name][2]], capture_output=True, text=True, check=True)
    return (done.stdout + done.stderr).splitlines()[0].partition(" - ")[0].removeprefix("nginx version: ")


@contextlib.contextmanager
def running(name: str, directory: Path, upstream_port: int) -> Iterator[int]:
    """The peer, listening at the port that is yielded."""
    template, arguments, _ = _PEERS[name]
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    directory.mkdir(parents=True, exist_ok=True)
    config = template.format(directory=directory, port=port, upstream_port=upstream_port)
    (directory / "config").write_text(config)
    path = program(name)
    assert path is not None
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen([path, *arguments(directory)], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert process.poll() is None, (directory / "output").read_text()
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            assert time.monotonic() < deadline, f"{name} does not listen"
            time.sleep(0.02)  # until another program listens
        yield port
    finally:
        process.kill()
        process.wait()
