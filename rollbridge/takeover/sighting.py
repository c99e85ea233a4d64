"""Looks at the machine for ``predeploy-cleanup``: command lines, screens, pid files, who must not be touched."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from rollbridge.config.model import LegacyTakeoverConfig
from rollbridge.process.table import ProcessTable, scan_processes
from rollbridge.process.tree import DETACHED, INSTANCE_VARIABLE
from rollbridge.takeover.legacy import PidFile, Protection, Sighting, name_protected

# Where GNU screen keeps a socket for each session, named PID.NAME, in a directory for each user.
_SCREEN_DIRECTORIES: Final = ("/run/screen", "/var/run/screen", "/tmp/screens", "/tmp/uscreens")
_SOCKET_NAME: Final = re.compile(r"([0-9]{1,10})\.(.+)")


def look(legacy: LegacyTakeoverConfig) -> Sighting:
    """Return the machine as it is now."""
    table = scan_processes()
    commands = {pid: command for pid in table.rows if (command := whole_command(pid))}
    return Sighting(
        table=table,
        commands=commands,
        screens=tuple(_screens(os.environ, commands)) if legacy.screens else (),
        pid_files=tuple(file for path in legacy.pid_files if (file := read_pid_file(path)) is not None),
        boot_at=time.time() - time.clock_gettime(time.CLOCK_BOOTTIME),
        ticks_per_second=os.sysconf("SC_CLK_TCK"),
    )


def whole_command(pid: int) -> str:
    """Return the command line of ``pid``, words joined by blanks; empty when there is none to see."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return data.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")


def read_pid_file(path: str) -> PidFile | None:
    """Return what the pid file says, None when there is none, or no number in it."""
    try:
        file = Path(path)
        words = file.read_bytes()[:64].split()
        written_at = file.stat().st_mtime
    except OSError:
        return None
    if not words or not words[0].isdigit():
        return None
    return PidFile(path, int(words[0]), written_at)


def _screens(environ: Mapping[str, str], commands: Mapping[int, str]) -> Iterable[tuple[str, int]]:
    """Yield name and server of every screen session that can be seen, by its socket or by its command line."""
    directories = [Path(user) for base in _SCREEN_DIRECTORIES for user in _entries(base)]
    directories += [Path(environ[name]) for name in ("SCREENDIR",) if environ.get(name)]
    directories += [Path(environ["HOME"], ".screen")] if environ.get("HOME") else []
    for directory in directories:
        for entry in _entries(str(directory)):
            match = _SOCKET_NAME.fullmatch(Path(entry).name)
            if match and is_screen(int(match.group(1))):
                yield match.group(2), int(match.group(1))
    for pid, command in commands.items():
        name = session_name(command)
        if name and is_screen(pid):
            yield name, pid


def session_name(command: str) -> str | None:
    """Return the name that a screen server was started with (``SCREEN -dmS name …``); None when it has none."""
    words = command.split(" ")
    if words[0] != "SCREEN":
        return None
    for option, value in itertools.pairwise(words[1:]):
        if re.fullmatch(r"-[A-Za-z]*S", option):
            return value
        if not option.startswith("-"):
            return None
    return None


def is_screen(pid: int) -> bool:
    """Whether ``pid`` is a screen's server: sockets are left behind, and their numbers used again."""
    try:
        return Path(f"/proc/{pid}/comm").read_bytes().strip() == b"screen" and whole_command(pid).startswith("SCREEN")
    except OSError:
        return False


def _entries(directory: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(directory)]
    except OSError:
        return []


def protection(table: ProcessTable, daemon_pids: Iterable[int], runtime_dir: str) -> Protection:
    """Return who is left alone: see ``Protection``."""
    own_pid = os.getpid()
    worker_mark = f"--socket={runtime_dir}/worker-"

    def is_managed(pid: int) -> bool:
        mark = table.mark(pid, INSTANCE_VARIABLE)
        return (mark is not None and mark != DETACHED) or worker_mark in whole_command(pid)

    return Protection(
        table,
        name_protected(table, own_pid, [pid for pid in daemon_pids if pid]),
        is_managed,
        lambda pid: _namespace(pid) not in (None, _namespace(own_pid)),
    )


def _namespace(pid: int) -> str | None:
    """Return the pid namespace of a process, None when it cannot be seen."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115
    except OSError:
        return None


def hint(table: ProcessTable, pid: int, members: Mapping[int, int]) -> str:
    """Return who may have started ``pid`` again, and what to add to the config, as the end of a sentence."""
    unit = systemd_unit(pid)
    if unit:
        return f'by systemd: add systemd_units = ["{unit}"]'
    for parent in table.ancestors(pid):
        command = whole_command(parent)
        if parent <= 1 or not command:
            break
        if "PM2" in command and "God Daemon" in command:
            return "by pm2: add its name to pm2_apps"
        if "supervisord" in command:
            return f"by supervisord (pid {parent}): add its name to supervisord_programs"
        if parent not in members:
            return f"by pid {parent} ({command[:60]}): stop that first, by a text of its command line in processes"
    return "by a process that is gone: find what starts it (cron, inittab, a script), and stop that first"


def systemd_unit(pid: int) -> str:
    """Return the system service that ``pid`` belongs to, empty when it is none."""
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    match = re.search(r"/system\.slice/(?:[^/\n]+\.slice/)*([^/\n]+\.service)$", groups, re.MULTILINE)
    # A login, or cron, runs in a service as well: what it starts is not that service.
    if match is None or match.group(1) in ("cron.service", "crond.service", "ssh.service", "sshd.service"):
        return ""
    return match.group(1)
