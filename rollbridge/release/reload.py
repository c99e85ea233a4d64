"""The config read again: before each deploy, and by itself."""

from __future__ import annotations

from dataclasses import replace

from rollbridge.config.model import Config, Policy
from rollbridge.config.reload import restart_only_changes
from rollbridge.release.errors import OperationRefused
from rollbridge.release.fleet import Fleet
from rollbridge.release.release import Release
from rollbridge.release.starting import release_specs, shared_specs


def acceptable_config(fleet: Fleet) -> Config:
    """Read the config again; raise ConfigError when it is broken, OperationRefused when it changed too much."""
    config = fleet.around.read_config()
    changed = restart_only_changes(fleet.config, config)
    if changed:
        raise OperationRefused(
            f"the configuration changed where a running daemon cannot follow: {', '.join(changed)}. "
            f"Change it back, or restart the daemon (rollbridge shutdown, then deploy --ensure-daemon)"
        )
    return config


async def reload_config(fleet: Fleet) -> bool:
    """Adopt the config as it is now, once no deploy is going on; return whether it had changed.

    Raises as ``acceptable_config`` does, and then nothing is adopted. What runs goes on as it is: definitions of the
    active release, of services and of singletons count from the next start of each process.
    """
    async with fleet.exclusive("reload", wait=True):
        config = acceptable_config(fleet)
        if config == fleet.config:
            return False
        active = fleet.active
        if active is not None:
            _redefine(fleet, config, active)
        fleet.config = config
        fleet.around.save()
        return True


def _redefine(fleet: Fleet, config: Config, active: Release) -> None:
    """Let the next start of every process go by ``config``; raise TemplateError before anything is changed."""
    # Its replicas are reached where they were told to listen when the release came up.
    config = replace(config, proxy=replace(config.proxy, upstream_host=active.upstream_host))
    specs = [
        *release_specs(fleet, config, active),
        *shared_specs(fleet, config, active, Policy.SERVICE),
        *shared_specs(fleet, config, active, Policy.SINGLETON),
    ]
    processes = [*active.processes, *fleet.services.values(), *fleet.singletons.values()]
    known = {process.spec.instance_id: process for process in processes}
    for spec in specs:
        process = known.get(spec.instance_id)
        if process is not None:
            process.redefine(spec)
