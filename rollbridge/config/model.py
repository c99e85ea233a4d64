"""The effective configuration as values: what every other room reads.

Durations are float seconds, sizes int bytes. Strings that may hold templates expanded per start
(``command``, ``cwd``, ``env`` values, hooks) are kept as written; every other string is expanded.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from rollbridge.config.permissions import GroupLimits as GroupLimits
from rollbridge.config.permissions import KillMode as KillMode
from rollbridge.config.permissions import Limit as Limit
from rollbridge.config.permissions import Permissions as Permissions
from rollbridge.config.reach import ControlConfig as ControlConfig  # re-exported: model.py names every value


class Policy(enum.Enum):
    """Who owns a process and how it lives across deploys."""

    PROXIED = "proxied"  # takes the traffic; one set per release
    COMPANION = "companion"  # one set per release, beside the proxied process
    SINGLETON = "singleton"  # never two at once across a deploy
    SERVICE = "service"  # one for the daemon, survives deploys (or one per release: handoff)


class DeployStrategy(enum.Enum):
    """What a deploy does with a service."""

    PERSISTENT = "persistent"  # keeps running; its next restart uses the new release
    HANDOFF = "handoff"  # one per release, on its own port


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports ``first`` to ``last``, both included; equal for one fixed port."""

    first: int
    last: int

    @property
    def is_fixed(self) -> bool:
        return self.first == self.last

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        return str(self.first) if self.is_fixed else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """How the proxied process is probed: GET ``path`` must answer 2xx or 3xx within ``timeout_seconds``."""

    path: str
    timeout_seconds: float
    interval_seconds: float
    start_delay_seconds: float


@dataclass(frozen=True, slots=True)
class RestartConfig:
    """``max_restarts`` None: unlimited. ``window_seconds`` 0: process lifetime. ``max_delay_seconds`` 0: no cap."""

    max_restarts: int | None = None
    window_seconds: float = 0.0
    backoff_factor: float = 1.0
    max_delay_seconds: float = 0.0
    no_restart_codes: tuple[int, ...] = ()  # exit codes after which it stays down


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Limits on the resident memory of the whole process tree; None: not set."""

    limit_bytes: int | None
    warn_bytes: int | None
    check_interval_seconds: float


@dataclass(frozen=True, slots=True)
class LifecycleConfig:
    """Hooks of the stop sequence; commands are templates run under ``/bin/sh -c``."""

    quiet_command: str | None = None
    drain_command: str | None = None
    stop_command: str | None = None
    drain_timeout_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EnvCommand:
    """A command that prints variables in dotenv syntax: a shell string or an argv tuple, of templates."""

    command: str | tuple[str, ...]
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """One ``[processes.<id>]`` table. ``command`` is a shell string or an argv tuple."""

    id: str
    policy: Policy
    command: str | tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    port: PortRange | None
    health: HealthConfig | None  # None: health = false, or not proxied
    replicas: int
    stop_signal: int
    graceful_stop_seconds: float | None  # None: "indefinite", never SIGKILL
    non_blocking_drain: bool
    output_lines: int
    restart_delay_seconds: float
    restart: RestartConfig
    memory: MemoryConfig | None
    lifecycle: LifecycleConfig
    deploy_strategy: DeployStrategy
    env_file: tuple[str, ...] = ()  # templates; "?" at the end: may be missing
    env_command: EnvCommand | None = None
    permissions: Permissions = field(default_factory=Permissions)
    kill_mode: KillMode = KillMode.TREE
    cgroup: GroupLimits | None = None  # None: no control group of its own

    @property
    def is_handoff(self) -> bool:
        return self.policy is Policy.SERVICE and self.deploy_strategy is DeployStrategy.HANDOFF


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    host: str
    port: int
    upstream_host: str
    health_path: str
    health_timeout_seconds: float
    drain_timeout_seconds: float
    force_stop_timeout_seconds: float
    workers: int | None  # None: "auto", one per core
    hold_timeout_seconds: float
    head_timeout_seconds: float
    idle_timeout_seconds: float
    response_timeout_seconds: float  # 0: wait for ever
    max_head_bytes: int
    max_connections: int
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    access_log: str | None


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    keep: int
    max_age_seconds: float  # 0: no age limit


@dataclass(frozen=True, slots=True)
class LegacyProcess:
    """A legacy process is one whose command line holds every string of ``includes``."""

    name: str
    includes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LegacyTakeoverConfig:
    """What the first deploy replaces. ``commands`` run under ``/bin/sh -c``; ``pid_files`` are absolute paths."""

    screens: tuple[str, ...]
    processes: tuple[LegacyProcess, ...]
    force_stop_timeout_seconds: float
    pid_files: tuple[str, ...] = ()
    systemd_units: tuple[str, ...] = ()
    supervisord_programs: tuple[str, ...] = ()
    pm2_apps: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file, defaults filled in. ``source_path`` is absolute."""

    source_path: str
    application: str
    runtime_dir: str
    state_path: str
    control: ControlConfig
    proxy: ProxyConfig
    release_retention: RetentionConfig
    processes: Mapping[str, ProcessConfig]  # in file order
    legacy_takeover: LegacyTakeoverConfig | None

    @property
    def proxied(self) -> ProcessConfig:
        """The one proxied process; validation guarantees that it exists."""
        return next(process for process in self.processes.values() if process.policy is Policy.PROXIED)


@dataclass(frozen=True, slots=True)
class LaunchContext:
    """What the templates of one start may name. ``ports`` maps process id to its (first) port."""

    application: str
    release_id: str
    release_path: str
    revision: str
    process_id: str
    replica_index: int
    replica_count: int
    port: int | None
    ports: Mapping[str, int]
    proxy_host: str
    proxy_port: int
    proxy_upstream_host: str
    environ: Mapping[str, str]  # the daemon's environment: env.<NAME>, and what the process inherits


@dataclass(frozen=True, slots=True)
class EnvFile:
    """A dotenv file, read at each start."""

    path: str
    is_optional: bool


@dataclass(frozen=True, slots=True)
class EnvSources:
    """What is read, and run, at each start for variables whose values nobody is shown; ``own`` wins over them."""

    files: tuple[EnvFile, ...]
    command: tuple[str, ...] | None  # argv
    command_timeout_seconds: float
    own: Mapping[str, str]  # ``env`` of the process, expanded


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything needed to exec one replica: templates expanded, environment complete but for ``env_sources``."""

    argv: tuple[str, ...]  # ("/bin/sh", "-c", text) for a string command
    cwd: str
    env: Mapping[str, str]  # inherited + injected ROLLBRIDGE_* + the process's own, which wins
    lifecycle: LifecycleConfig  # hooks expanded; {{...}} gone
    env_sources: EnvSources | None = None  # None: there are none
