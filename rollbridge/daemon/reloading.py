"""SIGHUP and ``rollbridge reload``: logs opened anew, the config read again."""

from __future__ import annotations

import asyncio
import contextlib

from rollbridge.config.issues import ConfigError
from rollbridge.daemon.supervisor import Supervisor
from rollbridge.release.errors import OperationRefused
from rollbridge.release.reload import reload_config


def listen_for_reload(supervisor: Supervisor) -> None:
    """Reload on SIGHUP from now on."""
    going_on: set[asyncio.Task[None]] = set()  # the loop alone would not keep them

    def begin() -> None:
        if going_on:
            reopen_logs(supervisor)  # the config is read later than now, when the one that waits gets its turn
            return
        task = asyncio.create_task(_reload_by_signal(supervisor), name="reload")
        going_on.add(task)
        task.add_done_callback(going_on.discard)

    supervisor.on_reload = begin


async def _reload_by_signal(supervisor: Supervisor) -> None:
    with contextlib.suppress(ConfigError, OperationRefused):  # recorded; nobody waits for an answer
        await reload(supervisor)


async def reload(supervisor: Supervisor) -> bool:
    """Open the logs anew, then adopt the config; return whether that had changed.

    Raises ConfigError for a broken config and OperationRefused for one that takes a restart: an event then has the
    reason, the logs are opened anew all the same, and the old config counts.
    """
    events = supervisor.machinery.events
    with supervisor.machinery.manager.reloading():
        reopen_logs(supervisor)
        try:
            is_changed = await reload_config(supervisor.fleet)
        except ConfigError as error:
            problems = [issue.text for issue in error.issues]
            events.record("config not adopted", {"error": str(error), "problems": problems})
            raise
        except OperationRefused as error:
            events.record("config not adopted", {"error": str(error)})
            raise
        if is_changed:
            supervisor.adopt_settings()
        events.record("config reloaded", {"changed": is_changed})
        return is_changed


def reopen_logs(supervisor: Supervisor) -> None:
    """Let the daemon and its workers write to the files that the paths of their logs name now."""
    events, pool = supervisor.machinery.events, supervisor.machinery.pool
    # A worker that is given settings opens its access log and its stderr anew, also when they are the same.
    pool.reconfigure(pool.settings)
    try:
        is_new = events.reopen()
    except OSError as error:
        events.record("log not reopened", {"path": events.log_path, "error": error.strerror or str(error)})
        return
    events.record("logs reopened", {"log": events.log_path, "moved": is_new, "access_log": pool.settings.access_log})
