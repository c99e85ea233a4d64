"""The daemon that runs before the first deploy: is it the one that this file and this config would start?

When it is not, and no release is active, it is made so: it continues as this code, or is started anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollbridge.cli.daemon import EXIT_SECONDS
from rollbridge.cli.ensure import ensure_daemon
from rollbridge.cli.errors import REFUSED, CliError
from rollbridge.cli.session import Request
from rollbridge.cli.upgrade import upgrade_daemon
from rollbridge.control.client import ControlClient
from rollbridge.process.table import read_environment_value
from rollbridge.process.tree import INSTANCE_VARIABLE

if TYPE_CHECKING:
    from rollbridge.config.model import Config
    from rollbridge.config.reach import ClientSettings

Tell = Callable[[str], None]

_DETACHED = "detached"  # what ensure-daemon marks its daemons with


@dataclass(frozen=True, slots=True)
class Mismatch:
    """In what the running daemon differs. Other code takes an upgrade; other settings of the proxy a restart."""

    pid: int
    differing: tuple[str, ...]
    needs_restart: bool

    @property
    def text(self) -> str:
        return "; ".join(self.differing)

    @property
    def remedy(self) -> str:
        how = "start it anew" if self.needs_restart else "upgrade it"
        return f"{how}: the daemon (pid {self.pid}) runs with {self.text}"


def find_mismatch(status: Request, config: Config, digest: str) -> Mismatch | None:
    """Return in what the daemon of ``status`` is not the one for ``config`` and the code with ``digest``."""
    settings = []
    proxy = status.get("proxy")
    if isinstance(proxy, dict):
        for key in ("host", "port", "upstream_host"):
            wanted = getattr(config.proxy, key)
            if proxy.get(key) != wanted:
                settings.append(f"proxy.{key} {proxy.get(key)}, not {wanted}")
    daemon = status.get("daemon")
    runtime = daemon.get("runtime") if isinstance(daemon, dict) else None
    code = []
    if isinstance(runtime, dict) and runtime.get("digest") != digest:
        code.append(f"other code than this rollbridge (version {runtime.get('version')})")
    pid = daemon.get("pid") if isinstance(daemon, dict) else None
    if not (settings or code) or not isinstance(pid, int):
        return None
    return Mismatch(pid, (*settings, *code), bool(settings))


def refuse_foreign(mismatch: Mismatch) -> None:
    """Raise CliError for a daemon that has to be started anew, and that somebody else starts."""
    if mismatch.needs_restart and read_environment_value(mismatch.pid, INSTANCE_VARIABLE) != _DETACHED:
        raise CliError(
            f"the daemon (pid {mismatch.pid}) runs with {mismatch.text}, and was not started by `ensure-daemon`. No "
            f"release is active: restart it the way it is started (`systemctl restart`, say), then run this again. "
            f"Nothing was stopped.",
            REFUSED,
        )


def end_mismatch(args: argparse.Namespace, settings: ClientSettings, mismatch: Mismatch, tell: Tell) -> None:
    """Upgrade the daemon, or shut it down to be started again when the port is free; raise CliError, ControlError."""
    if not mismatch.needs_restart:
        answer = upgrade_daemon(args, settings)
        tell(f"the daemon (pid {mismatch.pid}) was upgraded to rollbridge {answer.get('version')}")
        return
    with ControlClient(settings.control.path, settings.control.owner) as client:
        client.request({"command": "shutdown"}, timeout=None)
        if not client.wait_closed(EXIT_SECONDS):
            raise CliError(f"the daemon (pid {mismatch.pid}) was shut down, and has not exited. See its log.")
    tell(f"the daemon (pid {mismatch.pid}) was shut down, to be started anew: it ran with {mismatch.text}")


def start_again(args: argparse.Namespace, tell: Tell) -> None:
    """Start the daemon anew, with the settings and the code of now; raise CliError."""
    options = {"daemon_log_path": None, "daemon_pid_path": None, "daemon_start_timeout": None, "upgrade": False}
    running = ensure_daemon(argparse.Namespace(**{**options, **vars(args)}))
    tell(f"the daemon was started anew (pid {running.answer.get('pid')})")
