"""Reads one ``[processes.<id>]``: each key for itself. What keys and processes mean together is in rules.py."""

from __future__ import annotations

import re
import signal

from rollbridge.config.commands import read_command, start_template
from rollbridge.config.environment_section import read_env_command, read_env_file
from rollbridge.config.issues import BadValue
from rollbridge.config.model import (
    DeployStrategy,
    HealthConfig,
    KillMode,
    LifecycleConfig,
    MemoryConfig,
    Policy,
    PortRange,
    ProcessConfig,
    ProxyConfig,
    RestartConfig,
)
from rollbridge.config.permissions_section import read_group_limits, read_permissions
from rollbridge.config.proxy_section import health_path
from rollbridge.config.reader import Table, check_text
from rollbridge.config.showing import show_text, show_value
from rollbridge.config.suggest import nearest
from rollbridge.config.units import LARGEST_SIZE_BYTES
from rollbridge.config.values import choice, duration, flag, number, size

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[^=\0]+")
_PORT_RANGE = re.compile(r"\s*([0-9]{1,5})\s*(?:-\s*([0-9]{1,5})\s*)?")
_POLICIES = {policy.value: policy for policy in Policy}
_KILL_MODES = {mode.value: mode for mode in KillMode}
_STRATEGIES = {strategy.value: strategy for strategy in DeployStrategy}
_SIGNALS = {name: int(value) for name, value in signal.Signals.__members__.items()}
_MIB = 1024 * 1024
_PORT_EXAMPLE = 'port = 18182, port = "18182-18299" or port = { from = 18182, to = 18299 }'
_HEALTH_EXAMPLE = 'health = { path = "/ping", timeout = "30s" }, or health = false'
# The tracker of memory walks /proc: more often than this would cost more than it finds.
SHORTEST_CHECK_INTERVAL_SECONDS = 0.1

DEFAULT_CWD = "{{release_path}}"


def read_process(table: Table, process_id: str, proxy: ProxyConfig) -> ProcessConfig:
    """Read the table of ``process_id``; templates of command, cwd, env and hooks stay as written."""
    policy = choice(table, "policy", Policy.COMPANION, _POLICIES)
    process = ProcessConfig(
        id=process_id,
        policy=policy,
        command=read_command(table),
        cwd=start_template(table, "cwd", table.raw("cwd"), DEFAULT_CWD, "{{release_path}}"),
        env=_read_env(table),
        port=_read_port(table),
        health=_read_health(table, policy, proxy),
        replicas=table.integer("replicas", 1, 1, 1000),
        stop_signal=table.parsed("stop_signal", int(signal.SIGTERM), "SIGTERM", _signal_number),
        graceful_stop_seconds=_read_graceful_stop(table, proxy.force_stop_timeout_seconds),
        non_blocking_drain=flag(table, "non_blocking_drain", False),
        output_lines=table.integer("output_lines", 50, 0, 10_000),
        restart_delay_seconds=duration(table, "restart_delay", 1),
        restart=_read_restart(table),
        memory=_read_memory(table),
        lifecycle=_read_lifecycle(table),
        deploy_strategy=choice(table, "deploy_strategy", DeployStrategy.PERSISTENT, _STRATEGIES),
        env_file=read_env_file(table),
        env_command=read_env_command(table),
        permissions=read_permissions(table),
        cgroup=read_group_limits(table),
        kill_mode=choice(table, "kill_mode", KillMode.TREE, _KILL_MODES),
    )
    table.finish()
    return process


def _read_env(table: Table) -> dict[str, str]:
    variables = table.table("env", 'env = { APP_ENV = "production" }')
    env = {}
    for name, value in variables.values.items():
        if table.scope.is_full():
            break
        if not _VARIABLE.fullmatch(name):
            variables.note(
                name, f"{show_text(name)} cannot be the name of an environment variable", "use letters, digits and _"
            )
        elif name == "ROLLBRIDGE_INSTANCE":
            variables.note(name, "ROLLBRIDGE_INSTANCE is how rollbridge knows its processes", "choose another name")
        elif not isinstance(value, str):
            quoted = show_text(show_value(value)) if isinstance(value, bool | int | float) else '"text"'
            variables.note(name, f"{show_value(value)} is not text", f"put it in quotes: {name[:40]} = {quoted}")
        else:
            try:
                check_text(value)
                env[name] = value
            except BadValue as bad:
                variables.note(name, bad.message, bad.fix)
    return env


def _read_port(table: Table) -> PortRange | None:
    value = table.raw("port")
    if value is None:
        return None
    if isinstance(value, dict):
        ends = table.table("port", _PORT_EXAMPLE)
        first, last = ends.integer("from", None, 1, 65535), ends.integer("to", None, 1, 65535)
        for key in ("from", "to"):
            if not ends.has(key):
                table.note("port", f"the range has no {key!r}", f"write {_PORT_EXAMPLE}")
        ends.finish()
    elif isinstance(value, str):
        text = table.text("port", None, "18182-18299")
        if text is None:
            return None
        match = _PORT_RANGE.fullmatch(text)
        if match is None:
            table.note("port", f"{show_text(text)} is neither a port nor a range of ports", f"write {_PORT_EXAMPLE}")
            return None
        first = table.as_integer("port", int(match[1]), None, 1, 65535)
        last = first if match[2] is None else table.as_integer("port", int(match[2]), None, 1, 65535)
    elif isinstance(value, int) and not isinstance(value, bool):
        first = last = table.as_integer("port", value, None, 1, 65535)
    else:
        table.note("port", f"{show_value(value)} is neither a port nor a range of ports", f"write {_PORT_EXAMPLE}")
        return None
    if first is None or last is None:
        return None
    if first > last:
        table.note("port", f"the range {first}-{last} descends", f"write port = {{ from = {last}, to = {first} }}")
        return None
    return PortRange(first, last)


def _read_health(table: Table, policy: Policy, proxy: ProxyConfig) -> HealthConfig | None:
    value = table.raw("health")
    if policy is not Policy.PROXIED:
        if value is not None:
            table.note(
                "health",
                f"health belongs to the proxied process; this is a {policy.value}",
                'remove it, or set policy = "proxied"',
            )
        return None
    if value is False:
        return None
    if value is not None and not isinstance(value, dict):
        table.note("health", f"{show_value(value)} is neither a table nor false", f"write {_HEALTH_EXAMPLE}")
        return None
    section = table.table("health", _HEALTH_EXAMPLE)
    health = HealthConfig(
        path=section.parsed("path", proxy.health_path, "/ping", health_path),
        timeout_seconds=duration(section, "timeout", proxy.health_timeout_seconds, is_positive=True),
        interval_seconds=duration(section, "interval", 0.25, is_positive=True),
        start_delay_seconds=duration(section, "start_delay", 0),
    )
    section.finish()
    return health


def _signal_number(text: str) -> int:
    if text == "SIGSTOP":
        raise BadValue("SIGSTOP freezes a process, it does not end one", 'write stop_signal = "SIGTERM"')
    number = _SIGNALS.get(text)
    if number is None:
        meant = f"SIG{text.upper()}" if f"SIG{text.upper()}" in _SIGNALS else nearest(text, _SIGNALS)
        raise BadValue(
            f"{show_text(text)} is not a signal", f'did you mean "{meant}"?' if meant else 'write for example "SIGTERM"'
        )
    return number


def _read_graceful_stop(table: Table, default: float) -> float | None:
    value = table.raw("graceful_stop")
    if value == "indefinite":
        return None
    if isinstance(value, str) and nearest(value, ("indefinite", "infinite", "forever", "never")):
        table.note("graceful_stop", f"{show_text(value)} is not a duration", 'write "indefinite" to wait for ever')
        return default
    return duration(table, "graceful_stop", default)


def _read_restart(table: Table) -> RestartConfig:
    section = table.table("restart", 'restart = { max_restarts = 5, window = "1m" }')
    restart = RestartConfig(
        max_restarts=section.integer("max_restarts", None, 0, 1_000_000),
        window_seconds=duration(section, "window", 0),
        backoff_factor=number(section, "backoff_factor", 1, 1, 1000),
        max_delay_seconds=duration(section, "max_delay", 0),
        no_restart_codes=_read_exit_codes(section),
    )
    section.finish()
    return restart


def _read_exit_codes(section: Table) -> tuple[int, ...]:
    value = section.raw("no_restart_codes")
    if value is None:
        return ()
    example = "write no_restart_codes = [0, 78]"
    if not isinstance(value, list):
        section.note("no_restart_codes", f"{show_value(value)} is not an array of exit codes", example)
        return ()
    codes = []
    for index, code in enumerate(value):
        if isinstance(code, int) and not isinstance(code, bool) and 0 <= code <= 255:
            codes.append(code)
        else:
            where = (*section.path, "no_restart_codes", index)
            section.scope.note(where, f"{show_value(code)} is not an exit code from 0 to 255", example)
    return tuple(dict.fromkeys(codes))


def _read_memory(table: Table) -> MemoryConfig | None:
    section = table.table("memory", 'memory = { limit = "512MiB" }')
    memory = MemoryConfig(
        limit_bytes=size(section, "limit", None, 1, LARGEST_SIZE_BYTES, "512MiB"),
        warn_bytes=size(section, "warn", None, 1, LARGEST_SIZE_BYTES, "384MiB"),
        check_interval_seconds=duration(section, "check_interval", 5, is_positive=True),
    )
    section.finish()
    if 0 < memory.check_interval_seconds < SHORTEST_CHECK_INTERVAL_SECONDS:
        section.note("check_interval", "the interval is shorter than 100ms", 'choose for example "5s"')
    if isinstance(table.values.get("memory"), dict) and not (section.has("limit") or section.has("warn")):
        table.note("memory", "memory has neither limit nor warn", 'add limit = "512MiB", or remove memory')
    return memory if section.has("limit") or section.has("warn") else None


def _read_lifecycle(table: Table) -> LifecycleConfig:
    section = table.table("lifecycle", 'lifecycle = { drain_timeout = "60s" }')
    lifecycle = LifecycleConfig(
        quiet_command=_read_hook(section, "quiet_command", "kill -TSTP $ROLLBRIDGE_PID"),
        drain_command=_read_hook(section, "drain_command", "./wait-until-idle"),
        stop_command=_read_hook(section, "stop_command", "./stop"),
        drain_timeout_seconds=duration(section, "drain_timeout", 0),
    )
    section.finish()
    return lifecycle


def _read_hook(table: Table, key: str, example: str) -> str | None:
    value = table.raw(key)
    return None if value is None else start_template(table, key, value, "", example) or None
