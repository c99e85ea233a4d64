"""What a running daemon can take over from a changed config, and what it cannot."""

from __future__ import annotations

from rollbridge.config.model import Config, ProcessConfig

_OF_THE_DAEMON = ("application", "runtime_dir", "state_path")
_OF_THE_SOCKET = ("path", "mode", "owner", "group")
# The workers share the listening socket and are started with it.
_OF_THE_LISTENER = ("host", "port", "workers")
_OF_THE_TOPOLOGY = ("policy", "deploy_strategy", "replicas", "port")


def handed_on(config: Config) -> dict[str, str | int]:
    """Return the settings, dotted, that one daemon cannot give another value than the one that it takes over from.

    Where lock and state are found, and the socket that is open.
    """
    return {
        "application": config.application,
        "runtime_dir": config.runtime_dir,
        "state_path": config.state_path,
        "proxy.host": config.proxy.host,
        "proxy.port": config.proxy.port,
    }


def restart_only_changes(old: Config, new: Config) -> tuple[str, ...]:
    """Return the settings, dotted, that differ and take effect only with an upgrade or a restart.

    Empty when ``new`` may be adopted by the daemon that runs ``old``. A process that appeared or went away is
    named by its section.
    """
    changed = [key for key in _OF_THE_DAEMON if getattr(old, key) != getattr(new, key)]
    changed += [f"control.{key}" for key in _OF_THE_SOCKET if getattr(old.control, key) != getattr(new.control, key)]
    changed += [f"proxy.{key}" for key in _OF_THE_LISTENER if getattr(old.proxy, key) != getattr(new.proxy, key)]
    for process_id in dict.fromkeys((*old.processes, *new.processes)):
        changed += _topology_changes(process_id, old.processes.get(process_id), new.processes.get(process_id))
    return tuple(changed)


def _topology_changes(process_id: str, old: ProcessConfig | None, new: ProcessConfig | None) -> list[str]:
    if old is None or new is None:
        return [f"processes.{process_id}"]
    return [f"processes.{process_id}.{key}" for key in _OF_THE_TOPOLOGY if getattr(old, key) != getattr(new, key)]
