"""The proxies that are compared, each as an operator would set it up for this: persistent connections to the upstream,
X-Forwarded-* set, no access log (but for rollbridge-log), no compression, nothing cached."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.support.children import NotStarted, family, free_port, running, wait_until_answering
from benchmarks.support.machine import Cores, version_of
from benchmarks.support.rollbridge_worker import rollbridge_workers

IDLE_UPSTREAM_CONNECTIONS = 2000  # more than any load has: none is closed for want of room
ROLLBRIDGES = ("rollbridge", "rollbridge-log")
HTTP_PROXY_SCRIPT = Path(__file__).with_name("http_proxy.js")


class Missing(Exception):
    """A peer that is not installed; the text says how to install it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a proxy is started with. ``directory`` is its own; ``upstream_port`` is on 127.0.0.1."""

    directory: Path
    upstream_port: int
    workers: int
    cores: Cores
    python: str  # runs rollbridge
    node_modules: Path  # holds http-proxy


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy: where it listens, and the processes whose CPU and memory are its own."""

    port: int
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """``version`` raises Missing when it is not installed."""

    name: str
    version: Callable[[Setting], str]
    start: Callable[[Setting], AbstractContextManager[Proxy]]


def find_peer(name: str, pyz: Path | None) -> Peer:
    """Return the peer called ``name``; KeyError: there is none.

    ``rollbridge-log`` writes an access log; ``rollbridge@PATH`` is another .pyz or a checkout.
    """
    kind, _, path = name.partition("@")
    if kind not in ROLLBRIDGES:
        return PEERS[name]
    source = Path(path) if path else pyz
    if source is None:
        raise KeyError(name)
    return _rollbridge(name, source, is_logging=kind == "rollbridge-log")


def _need(command: str, package: str) -> str:
    # Debian keeps servers in sbin, which is not on everybody's path.
    found = shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(f"apt-get install {package}")
    return found


@contextlib.contextmanager
def _serve(setting: Setting, argv: Sequence[str], port: int, **env: str) -> Iterator[Proxy]:
    log = setting.directory / "output.log"
    with running(argv, cores=setting.cores.proxy, log=log, env=env) as child:
        wait_until_answering(port, "/5", child, log)
        yield Proxy(port, tuple(family(child.pid)))


def _nginx_version(_setting: Setting) -> str:
    return version_of([_need("nginx", "nginx-light"), "-v"], r"nginx/[\d.]+").replace("/", " ")


def _start_nginx(setting: Setting, buffers: str = "") -> AbstractContextManager[Proxy]:
    port = free_port()
    config = setting.directory / "nginx.conf"
    # Without temporary files: a body that arrives faster than it leaves would be written to the disk.
    config.write_text(f"""\
daemon off;
user root;
worker_processes {setting.workers};
worker_rlimit_nofile 1048576;
pid {setting.directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 32768; }}
http {{
    {nginx_paths(setting.directory)}
    access_log off;
    client_max_body_size 0;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    map $http_upgrade $connection_option {{ default upgrade; "" ""; }}
    upstream application {{
        server 127.0.0.1:{setting.upstream_port};
        keepalive {IDLE_UPSTREAM_CONNECTIONS};
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://application;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            {buffers}
            proxy_read_timeout 1h;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_option;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Port $server_port;
        }}
    }}
}}
""")
    return _serve(setting, [_need("nginx", "nginx-light"), "-c", str(config), "-e", "stderr"], port)


def _start_nginx_with_large_buffers(setting: Setting) -> AbstractContextManager[Proxy]:
    return _start_nginx(setting, "proxy_buffer_size 16k; proxy_buffers 8 64k; proxy_busy_buffers_size 256k;")


def nginx_paths(directory: Path) -> str:
    """Directives that keep nginx's temporary files in ``directory``."""
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{name}_temp_path {directory}/{name};" for name in names)


def _haproxy_version(_setting: Setting) -> str:
    return version_of([_need("haproxy", "haproxy"), "-v"], r"HAProxy version [\d.]+").replace("version ", "")


def _start_haproxy(setting: Setting) -> AbstractContextManager[Proxy]:
    port = free_port()
    config = setting.directory / "haproxy.cfg"
    config.write_text(f"""\
global
    nbthread {setting.workers}
    maxconn {haproxy_connections()}
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
    option forwardfor
    http-reuse always
frontend stable
    bind 127.0.0.1:{port} backlog 4096
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    default_backend application
backend application
    server one 127.0.0.1:{setting.upstream_port} pool-max-conn {IDLE_UPSTREAM_CONNECTIONS}
""")
    return _serve(setting, [_need("haproxy", "haproxy"), "-db", "-f", str(config)], port)


def haproxy_connections() -> int:
    """As many as descriptors allow: HAProxy refuses to start with more."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(20_000, (hard - 200) // 2)


def _caddy_version(_setting: Setting) -> str:
    return "Caddy " + version_of([_need("caddy", "caddy"), "version"], r"[\d.]+")


def _start_caddy(setting: Setting) -> AbstractContextManager[Proxy]:
    port = free_port()
    config = setting.directory / "Caddyfile"
    config.write_text(f"""\
{{
    admin off
    auto_https off
    log {{
        level ERROR
    }}
}}
http://:{port} {{
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:{setting.upstream_port} {{
        transport http {{
            keepalive 1h
            keepalive_idle_conns {IDLE_UPSTREAM_CONNECTIONS}
            keepalive_idle_conns_per_host {IDLE_UPSTREAM_CONNECTIONS}
        }}
    }}
}}
""")
    argv = [_need("caddy", "caddy"), "run", "--config", str(config), "--adapter", "caddyfile"]
    home = str(setting.directory)
    return _serve(setting, argv, port, GOMAXPROCS=str(setting.workers), HOME=home, XDG_DATA_HOME=home)


def _http_proxy_version(setting: Setting) -> str:
    node = _need("node", "nodejs")
    package = setting.node_modules / "http-proxy" / "package.json"
    if not package.exists():
        raise Missing(f"npm install --prefix {setting.node_modules.parent} http-proxy")
    found = version_of(["cat", str(package)], r'(?<="version": ")[^"]+')
    return f"http-proxy {found} (Node {version_of([node, '--version'])})"


def _start_http_proxy(setting: Setting) -> AbstractContextManager[Proxy]:
    port = free_port()
    argv = [
        _need("node", "nodejs"),
        str(HTTP_PROXY_SCRIPT),
        str(port),
        str(setting.upstream_port),
        str(setting.workers),
    ]
    return _serve(setting, argv, port, NODE_PATH=str(setting.node_modules))


def _rollbridge(name: str, path: Path, *, is_logging: bool) -> Peer:
    return Peer(
        name,
        lambda setting: "rollbridge " + version_of(rollbridge_argv(setting.python, path, "--version"), r"[\d.]+\S*"),
        lambda setting: _start_rollbridge(setting, path, setting.directory / "access.log" if is_logging else None),
    )


def rollbridge_argv(python: str, path: Path, *arguments: str) -> list[str]:
    """The command line of rollbridge from a .pyz, or from a checkout."""
    path = path.resolve()
    if not path.is_dir():
        return [python, "-I", str(path), *arguments]
    code = f"import sys; sys.path.insert(0, {str(path)!r}); from rollbridge.cli.main import main; sys.exit(main())"
    return [python, "-I", "-c", code, *arguments]


def build_pyz(checkout: Path, directory: Path, python: str) -> Path:
    """The single file of ``checkout`` as it is now."""
    pyz = directory / "rollbridge.pyz"
    argv = [python, str(checkout / "build_zipapp.py"), "--output", str(pyz)]
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise NotStarted(f"build_zipapp.py failed:\n{result.stdout}{result.stderr}")
    return pyz


@contextlib.contextmanager
def _start_rollbridge(setting: Setting, path: Path, access_log: Path | None) -> Iterator[Proxy]:
    argv = rollbridge_argv(setting.python, path, "_proxy-worker")
    with rollbridge_workers(
        argv, setting.workers, setting.cores.proxy, setting.directory, setting.upstream_port, access_log=access_log
    ) as (port, pids):
        yield Proxy(port, pids)


PEERS = {
    peer.name: peer
    for peer in (
        Peer("nginx", _nginx_version, _start_nginx),
        Peer("nginx-64k", _nginx_version, _start_nginx_with_large_buffers),
        Peer("haproxy", _haproxy_version, _start_haproxy),
        Peer("caddy", _caddy_version, _start_caddy),
        Peer("http-proxy", _http_proxy_version, _start_http_proxy),
    )
}
