"""Ports and start definitions: from the config and a release to processes that can be started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from rollbridge.config.launch import resolve_launch
from rollbridge.config.model import Config, LaunchContext, Policy, ProcessConfig
from rollbridge.process.managed import ProcessSpec
from rollbridge.release.errors import OperationFailed
from rollbridge.release.fleet import Fleet, ReleaseIdentity
from rollbridge.release.port_probe import describe_holder, probe_port
from rollbridge.release.ports import PortsExhausted, choose_ports
from rollbridge.release.release import Release
from rollbridge.release.steps import Step


class Grounds(Protocol):
    """What definitions are made of, besides a config and a release; a Fleet has it."""

    @property
    def shared_ports(self) -> Mapping[str, int]: ...

    @property
    def environ(self) -> Mapping[str, str]: ...


def is_per_release(process: ProcessConfig) -> bool:
    """Whether every release has its own (proxied, companion, handoff service)."""
    return process.policy in (Policy.PROXIED, Policy.COMPANION) or process.is_handoff


def shares_port(process: ProcessConfig) -> bool:
    """Whether it keeps one port for the daemon's life (services, singletons)."""
    return process.port is not None and not is_per_release(process)


def allocate_release_ports(fleet: Fleet, config: Config) -> dict[str, tuple[int, ...]]:
    """Choose the ports of a new release; raise OperationFailed when a range has none left."""
    chosen: dict[str, tuple[int, ...]] = {}
    for process in config.processes.values():
        if process.port is None or not is_per_release(process):
            continue
        reserved = fleet.reserved_ports() | {port for ports in chosen.values() for port in ports}
        chosen[process.id] = _choose(fleet, config, process, process.replicas, reserved)
        fleet.last_ports[process.id] = chosen[process.id][-1]
    return chosen


def allocate_shared_ports(fleet: Fleet, config: Config) -> None:
    """Give every service and singleton that has none yet its port; raise OperationFailed when there is none."""
    for process in config.processes.values():
        if shares_port(process) and process.id not in fleet.shared_ports:
            fleet.shared_ports[process.id] = _choose(fleet, config, process, 1, fleet.reserved_ports())[0]


def _choose(fleet: Fleet, config: Config, process: ProcessConfig, wanted: int, reserved: set[int]) -> tuple[int, ...]:
    assert process.port is not None
    host = config.proxy.upstream_host
    try:
        return choose_ports(
            process.id,
            process.port,
            wanted,
            reserved,
            lambda port: probe_port(host, port),
            fleet.last_ports.get(process.id),
        )
    except PortsExhausted as exhausted:
        detail = f" ({describe_holder(host, process.port.first)})" if exhausted.in_use and process.port.is_fixed else ""
        raise OperationFailed(f"{exhausted}{detail}", phase=Step.PORTS.value, process=process.id) from exhausted


def _context(
    grounds: Grounds,
    config: Config,
    process: ProcessConfig,
    identity: ReleaseIdentity,
    port: int | None,
    replica_index: int,
    release_ports: Mapping[str, int],
) -> LaunchContext:
    return LaunchContext(
        application=config.application,
        release_id=identity.release_id,
        release_path=identity.release_path,
        revision=identity.revision,
        process_id=process.id,
        replica_index=replica_index,
        replica_count=process.replicas,
        port=port,
        ports={**grounds.shared_ports, **release_ports},
        proxy_host=config.proxy.host,
        proxy_port=config.proxy.port,
        proxy_upstream_host=config.proxy.upstream_host,
        environ=grounds.environ,
    )


def release_specs(grounds: Grounds, config: Config, release: Release) -> list[ProcessSpec]:
    """Return what a release starts, in start order: handoff services, companions, proxied replicas."""
    identity = ReleaseIdentity(release.release_id, release.release_path, release.revision)
    own = [process for process in config.processes.values() if is_per_release(process)]
    order = {Policy.SERVICE: 0, Policy.COMPANION: 1, Policy.PROXIED: 2, Policy.SINGLETON: 3}
    specs = []
    for process in sorted(own, key=lambda one: order[one.policy]):
        ports = release.ports.get(process.id)
        # A release that an earlier daemon left, of a configuration with fewer replicas, has no ports for more.
        for index in range(process.replicas if ports is None else min(process.replicas, len(ports))):
            port = ports[index] if ports else None
            context = _context(grounds, config, process, identity, port, index, release.first_ports)
            specs.append(
                ProcessSpec(
                    instance_id=f"{release.key}.{process.id}.{index}",
                    process=process,
                    launch=resolve_launch(process, context),
                    release_id=release.release_id,
                    replica_index=index,
                    replica_count=process.replicas,
                    port=port,
                )
            )
    return specs


def shared_specs(grounds: Grounds, config: Config, release: Release, policy: Policy) -> list[ProcessSpec]:
    """Return the daemon's own processes of ``policy`` (persistent services, or singletons) as of ``release``."""
    identity = ReleaseIdentity(release.release_id, release.release_path, release.revision)
    specs = []
    for process in config.processes.values():
        if process.policy is not policy or is_per_release(process):
            continue
        port = grounds.shared_ports.get(process.id)
        context = _context(grounds, config, process, identity, port, 0, release.first_ports)
        specs.append(
            ProcessSpec(
                instance_id=process.id,
                process=process,
                launch=resolve_launch(process, context),
                release_id=release.release_id,
                replica_index=0,
                replica_count=1,
                port=port,
            )
        )
    return specs
