"""What ``doctor`` makes of what it saw: from facts to findings, each with what to do about it; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

PROBLEM: Final = "problem"  # something fails now, or will: exit code 1
WARNING: Final = "warning"  # works, and may cost something one day
OK: Final = "ok"

MIB: Final = 1024 * 1024
# Output, logs, state and a copy of the code are written there; without room the state is kept in memory alone.
LEAST_FREE_BYTES: Final = 20 * MIB
LOW_FREE_BYTES: Final = 200 * MIB
LEAST_FREE_INODES: Final = 100
_DESCRIPTORS_BESIDE_CLIENTS: Final = 64  # of a proxy worker: its listener, its link, logs, idle upstream connections
_FIRST_PLAUSIBLE_TIME: Final = 1735689600.0  # 2025-01-01: a clock before that was never set
_CLOCK_SLACK_SECONDS: Final = 60.0
_SYSTEMD_STOP_SECONDS: Final = 90.0  # DefaultTimeoutStopSec=
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Zµ]*)\s*")
_UNITS: Final[Mapping[str, float]] = {
    "us": 1e-6, "usec": 1e-6, "µs": 1e-6, "ms": 1e-3, "msec": 1e-3,
    "": 1, "s": 1, "sec": 1, "second": 1, "seconds": 1,
    "m": 60, "min": 60, "minute": 60, "minutes": 60,
    "h": 3600, "hr": 3600, "hour": 3600, "hours": 3600, "d": 86400, "day": 86400, "days": 86400,
    "w": 604800, "week": 604800, "weeks": 604800,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """``check`` is what was looked at; ``fix`` is empty only when ``level`` is OK."""

    check: str
    level: str
    message: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    path: str
    free_bytes: int
    free_inodes: int | None  # None: a file system without a fixed number of them


def disk_finding(disk: Disk) -> Finding:
    """Judge the room that is left where we write."""
    free = f"{disk.free_bytes // MIB} MiB free at {disk.path}"
    fix = "make room there, or move runtime_dir, state_path or proxy.access_log to another file system"
    if disk.free_inodes is not None and disk.free_inodes < LEAST_FREE_INODES:
        return Finding("disk", PROBLEM, f"{disk.free_inodes} inodes free at {disk.path}", fix)
    if disk.free_bytes < LEAST_FREE_BYTES:
        return Finding("disk", PROBLEM, free, fix)
    return Finding("disk", WARNING, free, fix) if disk.free_bytes < LOW_FREE_BYTES else Finding("disk", OK, free)


def limit_finding(hard: int | None, max_connections: int) -> Finding:
    """Judge the number of open files that the kernel allows (None: any); a proxied client takes two."""
    needed = 2 * max_connections + _DESCRIPTORS_BESIDE_CLIENTS
    if hard is None or hard >= needed:
        return Finding("limits", OK, f"open files: {'unlimited' if hard is None else hard}, {needed} needed at most")
    return Finding(
        "limits",
        WARNING,
        f"open files: {hard}, too few for proxy.max_connections = {max_connections}, which takes up to {needed}",
        f"set LimitNOFILE={needed} in the unit (or `ulimit -Hn {needed}` before the daemon), or lower max_connections",
    )


def clock_finding(now: float, written_at: float | None) -> Finding:
    """Judge the clock (seconds since the epoch) by the calendar and by when the state file was written."""
    fix = "set the clock, and let a time service (timedatectl set-ntp true) keep it"
    if now < _FIRST_PLAUSIBLE_TIME:
        return Finding("clock", PROBLEM, "the clock is before 2025", fix)
    if written_at is not None and written_at > now + _CLOCK_SLACK_SECONDS:
        ahead = written_at - now
        return Finding("clock", PROBLEM, f"the state file was written {ahead:.0f} s in the future", fix)
    return Finding("clock", OK, "the clock is plausible")


# Outer time-outs


@dataclass(frozen=True, slots=True)
class Unit:
    """The [Service] section of a unit of systemd, drop-ins included; the last assignment of a name counts."""

    path: str
    settings: Mapping[str, str]


def parse_unit(path: str, texts: Sequence[str]) -> Unit:
    """Return the unit at ``path`` from its text and those of its drop-ins, in their order (systemd.syntax(7))."""
    settings: dict[str, str] = {}
    for text in texts:
        section = ""
        for raw in text.replace("\\\n", " ").splitlines():
            line = raw.strip()
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1]
            elif section == "Service" and "=" in line and line[0] not in "#;":
                name, _, value = line.partition("=")
                settings[name.strip()] = value.strip()
    return Unit(path, settings)


def parse_span(text: str) -> float | None:
    """Return the seconds of a time span of systemd (systemd.time(7)); infinite for ``infinity``, None if it is none."""
    if text.strip() == "infinity":
        return float("inf")
    seconds, position = 0.0, 0
    while position < len(text):
        match = _SPAN.match(text, position)
        if not match or match[2] not in _UNITS:
            return None
        seconds += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    return seconds if text.strip() else None


def unit_findings(unit: Unit, stop_seconds: float, indefinite: Sequence[str]) -> Iterator[Finding]:
    """Judge a unit that runs the daemon: ``stop_seconds`` is what an orderly stop may take.

    ``indefinite`` are the ids of processes that may take for ever.
    """
    settings = unit.settings
    kill_mode = settings.get("KillMode", "control-group")
    if kill_mode not in ("process", "none"):
        yield Finding(
            "outer timeouts",
            PROBLEM,
            f"{unit.path}: KillMode={kill_mode} sends the stop signal to all processes at once, past drains and hooks",
            "set KillMode=process",
        )
    text = settings.get("TimeoutStopSec", settings.get("TimeoutSec", ""))
    limit = parse_span(text) if text else _SYSTEMD_STOP_SECONDS
    if limit is None:
        yield Finding(
            "outer timeouts", PROBLEM, f"{unit.path}: TimeoutStopSec={text} is no time span", "write it as 90s"
        )
        return
    limit = limit or float("inf")  # 0 stands for none
    # A daemon that may talk to systemd asks for the time that it needs, see docs/systemd.md.
    is_asking = settings.get("Type", "simple") in ("notify", "notify-reload") and settings.get(
        "NotifyAccess", "main"
    ) in ("main", "exec", "all")
    shown = f"TimeoutStopSec={text}" if text else f"TimeoutStopSec is not set, which means {limit:g} s"
    if indefinite and limit != float("inf"):
        yield Finding(
            "outer timeouts",
            WARNING,
            f"{unit.path}: {shown}, while graceful_stop of {', '.join(indefinite)} is indefinite: after that time "
            f"systemd kills the daemon, and they run on with nobody in charge",
            "set TimeoutStopSec=infinity, or give these processes a graceful_stop",
        )
    if limit < stop_seconds and not is_asking:
        yield Finding(
            "outer timeouts",
            PROBLEM,
            f"{unit.path}: {shown}, while an orderly stop may take {stop_seconds:g} s by the config: systemd "
            f"would kill the daemon before its processes have ended",
            f"set Type=notify, or TimeoutStopSec={_whole(stop_seconds)}s, or shorten graceful_stop and drain_timeout",
        )
        return
    yield Finding("outer timeouts", OK, f"{unit.path}: leaves the {stop_seconds:g} s that an orderly stop may take")


def _whole(seconds: float) -> int:
    return int(seconds) + (seconds != int(seconds))


def is_for(unit: Unit, config_path: str) -> bool:
    """Whether the unit runs the daemon of this config: named on its command line, or found by its directory."""
    words = unit.settings.get("ExecStart", "").split()
    if "daemon" not in words:
        return False
    given = [words[n + 1] for n, word in enumerate(words[:-1]) if word in ("-c", "--config")]
    given += [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    directory, _, name = config_path.rpartition("/")
    if given:
        return given[0] in (config_path, name if unit.settings.get("WorkingDirectory") == directory else None)
    return (
        "rollbridge" in unit.settings["ExecStart"]
        and name == "rollbridge.toml"
        and unit.settings.get("WorkingDirectory") == directory
    )


def exit_is_bad(findings: Sequence[Finding]) -> bool:
    return any(finding.level == PROBLEM for finding in findings)
