"""The application behind every proxy: nginx, answering from memory."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from benchmarks.support.children import free_port, running, wait_until_answering
from benchmarks.support.peers import Missing, nginx_paths

FILE_SIZES = {"64k": 64 * 1024, "1m": 1024 * 1024}


@contextlib.contextmanager
def nginx_upstream(directory: Path, cores: Collection[int]) -> Iterator[int]:
    """Serve /5 (5 bytes), /1k, /64k, /1m and /post (reads a body, answers 5 bytes); yields the port.

    ``directory`` should be in memory: files are sent from the page cache anyway, but need not wait for a disk once.
    """
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if nginx is None:
        raise Missing("apt-get install nginx-light")
    for name, size in FILE_SIZES.items():
        (directory / name).write_bytes(b"x" * size)
    port = free_port()
    config = directory / "upstream.conf"
    # ``return`` answers before it has read a body, as no application does. So a body is read into memory first, by
    # passing the request on, without it, to this same process.
    config.write_text(f"""\
daemon off;
user root;
worker_processes {len(cores)};
worker_rlimit_nofile 1048576;
pid {directory}/upstream.pid;
error_log stderr crit;
events {{ worker_connections 16384; multi_accept on; }}
http {{
    {nginx_paths(directory)}
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    open_file_cache max=16 inactive=1h;
    open_file_cache_valid 1h;
    sendfile on;
    tcp_nopush on;
    client_body_buffer_size 128k;
    default_type application/octet-stream;
    upstream itself {{ server unix:{directory}/upstream.sock; keepalive 2000; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        listen unix:{directory}/upstream.sock backlog=4096;
        root {directory};
        location = /5 {{ return 200 "12345"; }}
        location = /1k {{ return 200 "{"x" * 1024}"; }}
        location = /post {{
            proxy_pass http://itself/5;
            proxy_http_version 1.1;
            proxy_method GET;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header Connection "";
        }}
    }}
}}
""")
    log = directory / "upstream.log"
    with running([nginx, "-c", str(config), "-e", "stderr"], cores=cores, log=log) as child:
        wait_until_answering(port, "/1m", child, log)
        yield port
