"""The demo's temporary directory: three releases, a config file, a job queue, and free ports for them."""

from __future__ import annotations

import json
import random
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rollbridge.demo.jobs import JobQueue

HOST: Final = "127.0.0.1"
RELEASES: Final = {"v1": False, "v2": False, "v3": True}  # id: is it broken
WEB_PORTS: Final = 8  # two releases at a time need two; the others are there for ports that others take
FIRST_PORT: Final = 10000
# Unix socket paths hold at most 107 bytes, and the product's own names need room after ours.
MAX_DIRECTORY_BYTES: Final = 50
EPHEMERAL_PORTS_PATH: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_EPHEMERAL_PORT: Final = 32768


class StageFailed(Exception):
    """The machine does not let us begin; the message is for the operator."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where everything is. ``port`` is the stable one."""

    directory: Path
    port: int
    web_ports: range

    @property
    def config_path(self) -> Path:
        return self.directory / "rollbridge.toml"

    @property
    def jobs_directory(self) -> Path:
        return self.directory / "jobs"

    @property
    def log_path(self) -> Path:
        return self.directory / "daemon.log"

    def release_path(self, release_id: str) -> Path:
        return self.directory / "releases" / release_id


def make_directory() -> Path:
    """A private directory whose path is short enough for the sockets in it."""
    parent = tempfile.gettempdir()
    if len(parent.encode()) + len("/rollbridge-demo-12345678") > MAX_DIRECTORY_BYTES:
        parent = "/tmp"
    return Path(tempfile.mkdtemp(prefix="rollbridge-demo-", dir=parent))


def set_up(directory: Path, self_command: Sequence[str], chance: random.Random) -> Stage:
    """Fill ``directory``. Raises StageFailed, OSError."""
    stage = choose_ports(directory, self_command, chance)
    JobQueue(stage.jobs_directory).create()
    for release_id, is_broken in RELEASES.items():
        stage.release_path(release_id).mkdir(parents=True)
        definition = json.dumps({"is_broken": is_broken}) + "\n"
        (stage.release_path(release_id) / "release.json").write_text(definition, encoding="utf-8")
    return stage


def choose_ports(directory: Path, self_command: Sequence[str], chance: random.Random) -> Stage:
    """Write the config, with ports that are free now. Raises StageFailed, OSError."""
    first = find_ports(1 + WEB_PORTS, chance)
    stage = Stage(directory, first, range(first + 1, first + 1 + WEB_PORTS))
    stage.config_path.write_text(render_config(stage, self_command), encoding="utf-8")
    return stage


def render_config(stage: Stage, self_command: Sequence[str]) -> str:
    """The config file as a user would write it."""
    app = [*map(literal, self_command), "_demo-app", "--host", HOST, "--port", "{{port}}"]
    worker = [*map(literal, self_command), "_demo-worker", "--queue", literal(str(stage.jobs_directory))]
    return f"""\
application = "demo"
runtime_dir = {quote(literal(str(stage.directory / "run")))}

[control]
path = {quote(literal(str(stage.directory / "control.sock")))}

[proxy]
host = {quote(HOST)}
port = {stage.port}
workers = 2
hold_timeout = "8s"
drain_timeout = "8s"

[processes.web]
policy = "proxied"
command = [{", ".join(map(quote, app))}]
port = {{ from = {stage.web_ports[0]}, to = {stage.web_ports[-1]} }}
health = {{ path = "/ping", timeout = "10s", interval = "100ms" }}
restart_delay = "100ms"

[processes.worker]
policy = "companion"
command = [{", ".join(map(quote, worker))}]
replicas = 2
graceful_stop = "5s"
non_blocking_drain = true
"""


def quote(text: str) -> str:
    """``text`` as a TOML basic string, whose escapes are those of JSON (but DEL, which JSON leaves as it is)."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def literal(text: str) -> str:
    """``text`` so that no part of it is taken for a template."""
    return text.replace("{{", "{{{{")


def find_ports(count: int, chance: random.Random) -> int:
    """The first of ``count`` ports in a row that nobody listens on. Raises StageFailed.

    They lie below the ephemeral ones: the demo's own thousands of outgoing connections take those.
    """
    last = min(read_ephemeral_port(), 65536) - count
    if last <= FIRST_PORT:
        last = 65536 - count
    for _ in range(200):
        first = chance.randrange(FIRST_PORT, last)
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise StageFailed(f"found no {count} free ports in a row between {FIRST_PORT} and {last}. Stop what listens there.")


def read_ephemeral_port() -> int:
    """The first port that the kernel gives to outgoing connections."""
    try:
        return int(EPHEMERAL_PORTS_PATH.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return USUAL_EPHEMERAL_PORT


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
        return True
