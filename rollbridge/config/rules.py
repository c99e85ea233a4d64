"""What settings mean together: rules over more than one key or process."""

from __future__ import annotations

import signal

from rollbridge.config.model import Config, DeployStrategy, Policy, PortRange, ProcessConfig
from rollbridge.config.reader import Table

_RANGE_FIX = "port = { from = 18182, to = 18299 }"


def check_rules(config: Config, root: Table) -> None:
    """Note every broken rule. Of a value that was itself wrong, its default stands in ``config``."""
    given = root.values.get("processes")
    for process in config.processes.values():
        keys = given[process.id] if isinstance(given, dict) else {}
        _check_process(process, Table(keys, ("processes", process.id), root.scope))
    _check_proxied(config, root)
    _check_ports(config, root)
    _check_variables(config, root)


def _check_proxied(config: Config, root: Table) -> None:
    proxied = [process.id for process in config.processes.values() if process.policy is Policy.PROXIED]
    if not proxied and config.processes:
        if _has_broken_policy(root):
            return
        first = next(iter(config.processes))
        root.note(
            "processes",
            "no process is proxied, so nothing would take the traffic",
            f'set policy = "proxied" in the one that serves HTTP, for example in [processes.{first}]',
        )
    for extra in proxied[1:]:
        root.scope.note(
            ("processes", extra, "policy"),
            f"{proxied[0]} is already proxied, and there can be only one",
            'set policy = "companion", or remove one of them',
        )


def _has_broken_policy(root: Table) -> bool:
    return any(problem.path[0] == "processes" and problem.path[-1] == "policy" for problem in root.scope.problems)


def _check_process(process: ProcessConfig, table: Table) -> None:
    policy = process.policy
    if policy is Policy.PROXIED and not table.has("port"):
        table.note("port", "the proxied process has no port", f"add {_RANGE_FIX} to [processes.{process.id}]")
    if process.non_blocking_drain and policy is not Policy.COMPANION:
        table.note(
            "non_blocking_drain", f"non_blocking_drain is for companions; this is a {policy.value}", "remove the line"
        )
    _check_strategy(process, table)
    _check_replicas(process, table)
    lifecycle = process.lifecycle
    if lifecycle.drain_command and not lifecycle.drain_timeout_seconds:
        _note_in(table, "lifecycle", "drain_command", "drain_command has no time to run", 'add drain_timeout = "60s"')
    if lifecycle.stop_command and process.stop_signal != signal.SIGTERM:
        table.note("stop_signal", "stop_command replaces the signal", "remove either stop_signal or stop_command")
    memory = process.memory
    if memory and memory.limit_bytes and memory.warn_bytes and memory.warn_bytes >= memory.limit_bytes:
        _note_in(
            table,
            "memory",
            "warn",
            "warn is not below limit, so it would never be told in time",
            'choose a warn below the limit, for example three quarters of it: limit = "512MiB", warn = "384MiB"',
        )

    ceiling = process.cgroup.memory_max_bytes if process.cgroup else None
    if memory and memory.limit_bytes and ceiling and memory.limit_bytes >= ceiling:
        table.note(
            "memory_max",
            "memory.limit is not below memory_max, so the kernel would kill before the graceful restart",
            'choose a memory_max above the limit, for example "768MiB" for memory = { limit = "512MiB" }',
        )


def _note_in(table: Table, section: str, key: str, message: str, fix: str) -> None:
    table.scope.note((*table.path, section, key), message, fix)


def _check_strategy(process: ProcessConfig, table: Table) -> None:
    if table.has("deploy_strategy") and process.policy is not Policy.SERVICE:
        table.note(
            "deploy_strategy",
            f"deploy_strategy is for services; this is a {process.policy.value}",
            'remove the line, or set policy = "service"',
        )
    elif process.deploy_strategy is DeployStrategy.HANDOFF:
        if not table.has("port"):
            table.note(
                "deploy_strategy",
                "a handoff service has one port per release, and there is no port",
                f"add {_RANGE_FIX}",
            )
        elif process.port and process.port.is_fixed:
            table.note(
                "port",
                f"a handoff service needs a port for each release, and {process.port} is only one",
                f"write a range, for example port = {_wider(process.port, 10)}",
            )


def _check_replicas(process: ProcessConfig, table: Table) -> None:
    if process.replicas == 1:
        return
    if process.policy is Policy.PROXIED:
        if process.port and len(process.port) < 2 * process.replicas:
            table.note(
                "port",
                f"the range has {len(process.port)} ports, fewer than twice the {process.replicas} replicas: "
                f"the next release could not start beside this one",
                f"widen it, for example port = {_wider(process.port, 2 * process.replicas)}",
            )
    elif process.policy is not Policy.COMPANION:
        table.note("replicas", f"a {process.policy.value} runs once, not {process.replicas} times", "remove the line")
    elif table.has("port"):
        table.note(
            "replicas",
            "replicas of a companion would share its one port",
            "remove port, or replicas, or write one process for each",
        )


def _wider(port: PortRange, count: int) -> str:
    last = min(port.first + count - 1, 65535)
    return f"{{ from = {last - count + 1}, to = {last} }}"


def _check_ports(config: Config, root: Table) -> None:
    """Note ports that two would want: the proxy's own within a range, and fixed ones of another process."""
    owners = {
        process.port.first: process.id
        for process in reversed([*config.processes.values()])
        if process.port is not None and process.port.is_fixed
    }
    fixed = sorted(owners)
    is_proxy_port_known = all(problem.path != ("proxy", "port") for problem in root.scope.problems)
    for process in config.processes.values():
        port = process.port
        if port is None:
            continue
        if is_proxy_port_known and port.first <= config.proxy.port <= port.last:
            what = f"port {port} is" if port.is_fixed else f"the range {port} has in it"
            root.scope.note(
                ("processes", process.id, "port"),
                f"{what} proxy.port, {config.proxy.port}, where the proxy itself listens",
                "choose other ports for the process, or another proxy.port",
            )
        taken = next((one for one in fixed if port.first <= one <= port.last and owners[one] != process.id), None)
        if taken is not None:
            message = f"port {taken} is the port of {owners[taken]} too"
            if not port.is_fixed:
                message = f"the range {port} has in it port {taken}, the port of {owners[taken]}"
            root.scope.note(("processes", process.id, "port"), message, "give each process ports of its own")


def _check_variables(config: Config, root: Table) -> None:
    """Note two processes whose ROLLBRIDGE_<ID>_PORT would be one variable."""
    names: dict[str, str] = {}
    for process in config.processes.values():
        if process.port is None:
            continue
        name = port_variable(process.id)
        other = names.setdefault(name, process.id)
        if other != process.id:
            root.scope.note(
                ("processes", process.id),
                f"{process.id} and {other} would share the environment variable {name}",
                "rename one of the two",
            )


def port_variable(process_id: str) -> str:
    """Return the name of the variable that tells every process the port of ``process_id``."""
    return f"ROLLBRIDGE_{process_id.upper().replace('-', '_')}_PORT"
