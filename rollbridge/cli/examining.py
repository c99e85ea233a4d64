"""Looks at the machine for ``doctor``: reads, asks, resolves; binds, writes and starts nothing."""

from __future__ import annotations

import grp
import os
import pwd
import resource
import shlex
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rollbridge.cli.diagnosis import (
    OK,
    PROBLEM,
    WARNING,
    Disk,
    Finding,
    clock_finding,
    disk_finding,
    is_for,
    limit_finding,
    parse_unit,
    unit_findings,
)
from rollbridge.config.launch import TemplateError, resolve_launch
from rollbridge.config.model import LaunchContext, ProcessConfig
from rollbridge.config.reach import ClientSettings
from rollbridge.control.client import ControlClient, ControlError
from rollbridge.daemon.notify import stop_seconds
from rollbridge.process.accounts import permission_problems
from rollbridge.process.control_groups import ControlGroups, missing_for
from rollbridge.release.port_probe import describe_holder, is_reached_at, listeners_on
from rollbridge.takeover.presence import Presence, advice, judge, observe
from rollbridge.takeover.survey import KnownState, is_in_memory, read_state, survey

if TYPE_CHECKING:
    from rollbridge.config.model import Config

UNIT_DIRECTORIES: Final = ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system")
_NO_RELEASE: Final = "/nonexistent"  # stands for the release's directory when none is named
_SHELL_SYNTAX: Final = frozenset("|&;<>()$`\\\"'*?[#~%{}\n!")
_SHELL_WORDS: Final = frozenset(("cd", "if", "for", "while", "case", "set", "export", "ulimit", "umask", ".", "trap"))


def examine(config: Config, release_paths: Sequence[str], unit_paths: Sequence[str]) -> Iterator[Finding]:
    """Look at everything that a deploy of ``config`` depends on; the config itself is known to be valid."""
    settings = ClientSettings(config.application, config.runtime_dir, config.state_path, config.control)
    presence, pid, found = _daemon(settings)
    yield found
    yield from _sockets(config)
    known = read_state(config.state_path)
    yield from _state(known, config.state_path)
    orphans = list(_orphans(known, settings, presence))
    yield from orphans
    # What an ended daemon left holds its ports, and the next daemon takes both over.
    if all(one.level == OK for one in orphans):
        yield from _ports(config, presence, pid)
    yield from _users(config)
    yield from _groups(config, pid)
    for path in release_paths:
        yield from _release(config, path)
    if not release_paths:
        yield from _commands(config, None)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield limit_finding(None if hard == resource.RLIM_INFINITY else hard, config.proxy.max_connections)
    yield clock_finding(time.time(), _written_at(known))
    yield from _disks(config, release_paths)
    yield from _units(config, unit_paths)


def _daemon(settings: ClientSettings) -> tuple[Presence | None, int | None, Finding]:
    try:
        seen = observe(settings)
    except ControlError as error:
        return None, None, Finding("daemon", PROBLEM, error.message, "see what is said above about the control socket")
    presence = judge(seen)
    if presence is Presence.ANSWERS:
        return presence, seen.holder, Finding("daemon", OK, f"the daemon answers (pid {seen.holder})")
    if presence is Presence.NONE:
        return presence, None, Finding("daemon", OK, "no daemon runs")
    what, _, then = advice(presence, seen, settings.control.path).partition(". ")
    return presence, seen.holder, Finding("daemon", PROBLEM, what, then or "look again in a moment")


def _sockets(config: Config) -> Iterator[Finding]:
    beside = str(Path(config.control.path).parent)
    for what, directory in (("runtime_dir", config.runtime_dir), ("control.path", beside)):
        there = next(path for path in (Path(directory), *Path(directory).parents) if path.exists())
        fix = f"make {directory} for this user, or change {what}"
        found = Path(directory)
        if found.is_symlink() and what == "runtime_dir":
            yield Finding(
                "sockets", PROBLEM, f"{what} {directory} is a symbolic link", f"set {what} to where it points"
            )
        elif not there.is_dir():
            yield Finding("sockets", PROBLEM, f"{what}: {there} is not a directory", fix)
        elif not os.access(there, os.W_OK | os.X_OK):
            yield Finding("sockets", PROBLEM, f"{what}: nothing can be made in {there} by this user", fix)
        elif what == "runtime_dir" and found.exists() and found.stat().st_uid != os.geteuid():
            owner = _user(found.stat().st_uid)
            yield Finding("sockets", PROBLEM, f"{what} {directory} belongs to {owner}", f"run this as {owner}; {fix}")
        else:
            yield Finding("sockets", OK, f"{what} can be used: {directory}")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _state(known: KnownState, path: str) -> Iterator[Finding]:
    if known.complaint:
        yield Finding("state", PROBLEM, known.complaint, "`rollbridge ensure-daemon` goes on with what else is known")
    elif is_in_memory(path):
        yield Finding(
            "state",
            WARNING,
            f"state file {path} is on a file system that a reboot empties: which release was active is then forgotten",
            "set state_path to a place on a disk, such as /var/lib/rollbridge/",
        )
    else:
        yield Finding("state", OK, f"state file {path} {'is whole' if known.is_there else 'is not there yet'}")


def _written_at(known: KnownState) -> float | None:
    written = known.state.get("written_at")
    try:
        return datetime.fromisoformat(written).timestamp() if isinstance(written, str) else None
    except ValueError:
        return None


def _orphans(known: KnownState, settings: ClientSettings, presence: Presence | None) -> Iterator[Finding]:
    names: list[str] = []
    fix = "`rollbridge recover --heal` takes them over, `rollbridge recover --force` stops them"
    if presence is Presence.NONE:
        names = [f"{one.suspect.id} (pid {one.pid})" for one in survey(known, settings.runtime_dir)]
    elif presence is Presence.ANSWERS:
        with ControlClient(settings.control.path, settings.control.owner) as client:
            status = client.request({"command": "status"}).get("result")
        orphans = status.get("orphans") if isinstance(status, dict) else None
        names = [f"{one.get('id')} (pid {one.get('pid')})" for one in orphans or [] if isinstance(one, dict)]
        fix = "end them by their pids once you know that nobody needs them"
    else:
        return  # whose they are is not known while the daemon is silent
    if names:
        yield Finding("orphans", PROBLEM, f"run with nobody in charge: {', '.join(names)}", fix)
    else:
        yield Finding("orphans", OK, "nothing runs with nobody in charge")


def _ports(config: Config, presence: Presence | None, pid: int | None) -> Iterator[Finding]:
    host, port = config.proxy.host, config.proxy.port
    is_held = any(is_reached_at(one, host) for one in listeners_on(port))
    if presence is not Presence.NONE:
        if presence is Presence.ANSWERS and not is_held:
            yield Finding("port", PROBLEM, f"nobody listens on {host}:{port} though the daemon (pid {pid}) answers",
                          "if proxy.port was changed: `rollbridge shutdown`, then `ensure-daemon`")  # fmt: skip
        else:
            yield Finding("port", OK, f"{host}:{port} is held; the daemon runs")
        return
    if is_held:
        yield Finding("port", PROBLEM, describe_holder(host, port),
                      "stop that process, name it in [legacy_takeover], or choose another proxy.port")  # fmt: skip
    elif port < _first_free_port() and os.geteuid() != 0:
        yield Finding("port", WARNING, f"port {port} is privileged, and this is not root",
                      "use systemd socket activation or AmbientCapabilities=CAP_NET_BIND_SERVICE")  # fmt: skip
    else:
        yield Finding("port", OK, f"{host}:{port} is free")
    for process in config.processes.values():
        if process.port is None:
            continue
        ports = range(process.port.first, process.port.last + 1)
        taken = [one for one in ports if any(is_reached_at(by, config.proxy.upstream_host) for by in listeners_on(one))]
        where = f"processes.{process.id}.port"
        if len(ports) - len(taken) < process.replicas:
            who = describe_holder(config.proxy.upstream_host, taken[0])
            yield Finding(
                "port", PROBLEM, f"{where}: too few free ports: {who}", f"widen {where}, or stop who holds it"
            )
        else:
            yield Finding("port", OK, f"{where}: {len(ports) - len(taken)} of {len(ports)} ports are free")


def _first_free_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 1024


def _users(config: Config) -> Iterator[Finding]:
    asked: tuple[tuple[str, str | None, Callable[[str], object]], ...] = (
        ("owner", config.control.owner, pwd.getpwnam),
        ("group", config.control.group, grp.getgrnam),
    )
    for key, name, look_up in asked:
        if name is None or name.isdecimal():
            continue
        try:
            look_up(name)
            yield Finding("users", OK, f"control.{key} {name} exists")
        except KeyError:
            kind = "user" if key == "owner" else "group"
            yield Finding(
                "users", PROBLEM, f"control.{key}: there is no {kind} {name}", f"add it, or change control.{key}"
            )
    for problem in permission_problems(config):
        yield Finding("users", PROBLEM, f"{problem.where}: {problem.message}", problem.fix)
    mode = os.stat(config.source_path).st_mode  # noqa: PTH116
    if mode & stat.S_IWOTH:
        yield Finding("users", PROBLEM, f"{config.source_path} may be written by everybody",
                      f"chmod o-w {config.source_path}")  # fmt: skip


def _groups(config: Config, pid: int | None) -> Iterator[Finding]:
    """What the control groups of processes lack: below the daemon's group, or below ours while there is no daemon."""
    wanted = {process.id: process.cgroup for process in config.processes.values() if process.cgroup is not None}
    missing = missing_for(wanted, ControlGroups("/proc/self" if pid is None else f"/proc/{pid}"))
    for problem in missing:
        what, _, fix = problem.partition("; ")
        yield Finding("control groups", WARNING, f"{what}: the processes run without", fix)
    if wanted and not missing:
        yield Finding("control groups", OK, f"can be made, with all limits, for {', '.join(wanted)}")


def _release(config: Config, path: str) -> Iterator[Finding]:
    release = Path(path)
    fix = "prepare the release there, readable for this user"
    if not release.is_dir():
        yield Finding("release", PROBLEM, f"release path {path} is not a directory", fix)
    elif not os.access(release, os.R_OK | os.X_OK):
        yield Finding("release", PROBLEM, f"release path {path} may not be entered by this user", fix)
    elif not any(release.iterdir()):
        yield Finding("release", PROBLEM, f"release path {path} is empty", fix)
    else:
        yield Finding("release", OK, f"release path {path} is there")
        yield from _commands(config, str(release.resolve()))


def _commands(config: Config, release_path: str | None) -> Iterator[Finding]:
    """Expand every process as a start would; without a release, what lies in one is not looked for."""
    for process in config.processes.values():
        where = f"processes.{process.id}"
        try:
            launch = resolve_launch(process, _context(config, process, release_path or _NO_RELEASE))
        except TemplateError as error:
            yield Finding("templates", PROBLEM, f"{error.where}: {error.message}", error.fix)
            continue
        yield Finding("templates", OK, f"{where}: every placeholder has a value")
        is_inside = launch.cwd.startswith(_NO_RELEASE)
        if not is_inside and not Path(launch.cwd).is_dir():
            yield Finding(
                "commands", PROBLEM, f"{where}.cwd: {launch.cwd} is not a directory", f"make it, or change {where}.cwd"
            )
            continue
        program = launch.argv[0] if not isinstance(process.command, str) else _first_program(launch.argv[2])
        if program is None or program.startswith(_NO_RELEASE) or ("/" in program and is_inside):
            continue
        place = str(Path(launch.cwd, program)) if "/" in program else program
        found = shutil.which(place, path=launch.env.get("PATH"))
        if found is None:
            yield Finding("commands", PROBLEM, f"{where}.command: {program} is not an executable that can be found",
                          f"install it, write its whole path, or set PATH in {where}.env")  # fmt: skip
        else:
            yield Finding("commands", OK, f"{where}.command: {found}")


def _first_program(text: str) -> str | None:
    """Return the program that a shell command starts first; None when only a shell could tell."""
    head = text.strip().split("\n")[0]
    try:
        words = shlex.split(head.partition("&&")[0].partition("|")[0].partition(";")[0])
    except ValueError:
        return None
    rest = [word for word in words if word != "exec"]
    while rest and "=" in rest[0].partition("/")[0]:
        rest = rest[1:]
    if not rest or rest[0] in _SHELL_WORDS or _SHELL_SYNTAX & set(rest[0]):
        return None
    return rest[0]


def _context(config: Config, process: ProcessConfig, release_path: str) -> LaunchContext:
    ports = {one.id: one.port.first for one in config.processes.values() if one.port}
    proxy = config.proxy
    return LaunchContext(
        application=config.application,
        release_id="doctor",
        release_path=release_path,
        revision="doctor",
        process_id=process.id,
        replica_index=0,
        replica_count=process.replicas,
        port=ports.get(process.id),
        ports=ports,
        proxy_host=proxy.host,
        proxy_port=proxy.port,
        proxy_upstream_host=proxy.upstream_host,
        environ=os.environ,
    )


def _disks(config: Config, release_paths: Sequence[str]) -> Iterator[Finding]:
    places = [config.runtime_dir, config.state_path, config.proxy.access_log, *release_paths]
    seen: set[int] = set()
    for place in (Path(place) for place in places if place):
        there = next(path for path in (place, *place.parents) if path.exists())
        device = there.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        room = os.statvfs(there)
        inodes = room.f_favail if room.f_files else None
        yield disk_finding(Disk(str(there), room.f_bavail * room.f_frsize, inodes))


def _units(config: Config, unit_paths: Sequence[str]) -> Iterator[Finding]:
    longest = stop_seconds(config.proxy, config.processes.values())
    indefinite = [one.id for one in config.processes.values() if one.graceful_stop_seconds is None]
    paths = [Path(path) for path in unit_paths]
    installed = [path for directory in UNIT_DIRECTORIES for path in sorted(Path(directory).glob("*.service"))]
    for path in (*paths, *installed):
        drop_ins = sorted(Path(f"{path}.d").glob("*.conf"))
        try:
            unit = parse_unit(str(path), [one.read_text(errors="replace") for one in (path, *drop_ins)])
        except OSError as error:
            if path in paths:
                yield Finding("outer timeouts", PROBLEM, f"{path} cannot be read: {error.strerror}", "name a unit file")
            continue
        if path in paths or is_for(unit, config.source_path):
            yield from unit_findings(unit, longest, indefinite)
