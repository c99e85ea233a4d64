"""The effective config as TOML: everything written out, nothing left to defaults or to the environment."""

from __future__ import annotations

import signal
from typing import Any

from rollbridge.config.model import (
    Config,
    ControlConfig,
    EnvCommand,
    GroupLimits,
    LegacyTakeoverConfig,
    LifecycleConfig,
    MemoryConfig,
    Permissions,
    Policy,
    PortRange,
    ProcessConfig,
    ProxyConfig,
    RestartConfig,
)
from rollbridge.config.permissions import LIMIT_KINDS
from rollbridge.config.templates import literal
from rollbridge.config.units import format_duration, format_size


def to_toml(config: Config) -> str:
    """Return a config file that means the same as ``config``, wherever it is put.

    Templates that are expanded at each start (command, cwd, env, hooks) stand as they were written; every other
    string is expanded already, and a ``{{`` left in it is written as the literal it is.
    """
    # Not at the top: one command writes TOML, and nothing else of this room needs the library.
    import tomli_w

    return tomli_w.dumps(to_tables(config), multiline_strings=False)


def to_tables(config: Config) -> dict[str, Any]:
    """Return what ``to_toml`` writes, as plain values."""
    tables: dict[str, Any] = {
        "application": config.application,
        "runtime_dir": literal(config.runtime_dir),
        "state_path": literal(config.state_path),
        "control": _control(config.control),
        "proxy": _proxy(config.proxy),
        "release_retention": {
            "keep": config.release_retention.keep,
            "max_age": format_duration(config.release_retention.max_age_seconds),
        },
        "processes": {process.id: _process(process) for process in config.processes.values()},
    }
    if config.legacy_takeover is not None:
        tables["legacy_takeover"] = _legacy_takeover(config.legacy_takeover)
    return tables


def _control(control: ControlConfig) -> dict[str, Any]:
    return _without_none(
        {
            "path": literal(control.path),
            "mode": f"{control.mode:o}",
            "owner": control.owner,
            "group": control.group,
        }
    )


def _proxy(proxy: ProxyConfig) -> dict[str, Any]:
    return _without_none(
        {
            "host": proxy.host,
            "port": proxy.port,
            "upstream_host": proxy.upstream_host,
            "health_path": literal(proxy.health_path),
            "health_timeout": format_duration(proxy.health_timeout_seconds),
            "drain_timeout": format_duration(proxy.drain_timeout_seconds),
            "force_stop_timeout": format_duration(proxy.force_stop_timeout_seconds),
            "workers": "auto" if proxy.workers is None else proxy.workers,
            "hold_timeout": format_duration(proxy.hold_timeout_seconds),
            "head_timeout": format_duration(proxy.head_timeout_seconds),
            "idle_timeout": format_duration(proxy.idle_timeout_seconds),
            "response_timeout": format_duration(proxy.response_timeout_seconds),
            "max_head": format_size(proxy.max_head_bytes),
            "max_connections": proxy.max_connections,
            "trusted_proxies": [str(network) for network in proxy.trusted_proxies],
            "access_log": None if proxy.access_log is None else literal(proxy.access_log),
        }
    )


def _process(process: ProcessConfig) -> dict[str, Any]:
    is_proxied = process.policy is Policy.PROXIED
    stop = process.graceful_stop_seconds
    return _without_none(
        {
            "policy": process.policy.value,
            "deploy_strategy": process.deploy_strategy.value if process.policy is Policy.SERVICE else None,
            "command": process.command if isinstance(process.command, str) else list(process.command),
            "cwd": process.cwd,
            "port": _port(process.port),
            "replicas": process.replicas,
            "stop_signal": signal.Signals(process.stop_signal).name,
            "graceful_stop": "indefinite" if stop is None else format_duration(stop),
            "non_blocking_drain": process.non_blocking_drain,
            "output_lines": process.output_lines,
            "restart_delay": format_duration(process.restart_delay_seconds),
            "health": _health(process) if is_proxied else None,
            "restart": _restart(process.restart),
            "memory": _memory(process.memory),
            "lifecycle": _lifecycle(process.lifecycle),
            "kill_mode": process.kill_mode.value,
            **_permissions(process.permissions),
            **_group_limits(process.cgroup),
            "env_file": list(process.env_file) or None,
            "env_command": _env_command(process.env_command),
            "env": dict(process.env) or None,
        }
    )


def _port(port: PortRange | None) -> object:
    if port is None:
        return None
    return port.first if port.is_fixed else {"from": port.first, "to": port.last}


def _health(process: ProcessConfig) -> object:
    health = process.health
    if health is None:
        return False
    return {
        "path": literal(health.path),
        "timeout": format_duration(health.timeout_seconds),
        "interval": format_duration(health.interval_seconds),
        "start_delay": format_duration(health.start_delay_seconds),
    }


def _restart(restart: RestartConfig) -> dict[str, Any]:
    return _without_none(
        {
            "max_restarts": restart.max_restarts,
            "window": format_duration(restart.window_seconds),
            "backoff_factor": restart.backoff_factor,
            "max_delay": format_duration(restart.max_delay_seconds),
            "no_restart_codes": list(restart.no_restart_codes) or None,
        }
    )


def _memory(memory: MemoryConfig | None) -> object:
    if memory is None:
        return None
    return _without_none(
        {
            "limit": None if memory.limit_bytes is None else format_size(memory.limit_bytes),
            "warn": None if memory.warn_bytes is None else format_size(memory.warn_bytes),
            "check_interval": format_duration(memory.check_interval_seconds),
        }
    )


def _lifecycle(lifecycle: LifecycleConfig) -> dict[str, Any]:
    return _without_none(
        {
            "quiet_command": lifecycle.quiet_command,
            "drain_command": lifecycle.drain_command,
            "stop_command": lifecycle.stop_command,
            "drain_timeout": format_duration(lifecycle.drain_timeout_seconds),
        }
    )


def _permissions(permissions: Permissions) -> dict[str, Any]:
    groups = permissions.supplementary_groups
    return {
        "user": permissions.user,
        "group": permissions.group,
        "supplementary_groups": None if groups is None else list(groups),
        "umask": None if permissions.umask is None else f"{permissions.umask:03o}",
        "nice": permissions.nice,
        "limits": {
            # In the order in which they are read, so that the same limits are the same text.
            name: str(permissions.limits[name])
            for name in LIMIT_KINDS
            if name in permissions.limits
        }
        or None,
    }


def _group_limits(limits: GroupLimits | None) -> dict[str, Any]:
    if limits is None:
        return {"cgroup": False}
    return {
        "cgroup": True,
        "memory_max": None if limits.memory_max_bytes is None else format_size(limits.memory_max_bytes),
        "cpu_max": limits.cpu_max_cores,
        "pids_max": limits.pids_max,
    }


def _env_command(printer: EnvCommand | None) -> object:
    if printer is None:
        return None
    command = printer.command if isinstance(printer.command, str) else list(printer.command)
    return {"command": command, "timeout": format_duration(printer.timeout_seconds)}


def _legacy_takeover(legacy: LegacyTakeoverConfig) -> dict[str, Any]:
    return {
        "screens": [literal(name) for name in legacy.screens],
        "processes": [
            {"name": literal(one.name), "includes": [literal(text) for text in one.includes]}
            for one in legacy.processes
        ],
        "pid_files": [literal(path) for path in legacy.pid_files],
        "systemd_units": [literal(unit) for unit in legacy.systemd_units],
        "supervisord_programs": [literal(program) for program in legacy.supervisord_programs],
        "pm2_apps": [literal(app) for app in legacy.pm2_apps],
        "commands": [literal(command) for command in legacy.commands],
        "force_stop_timeout": format_duration(legacy.force_stop_timeout_seconds),
    }


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
