"""Reads what a process runs as and may use: user, groups, umask, nice and limits."""

from __future__ import annotations

import functools
import re
from typing import Any

from rollbridge.config.issues import BadValue
from rollbridge.config.permissions import LIMIT_KINDS, GroupLimits, Limit, LimitKind, Permissions
from rollbridge.config.reach import account, read_account
from rollbridge.config.reader import Table
from rollbridge.config.showing import show_text, show_value
from rollbridge.config.units import LARGEST_SIZE_BYTES, parse_duration, parse_size
from rollbridge.config.values import flag, number, size

_UMASK = re.compile(r"(?:0o)?[0-7]{1,4}")
_UMASK_FIX = 'write umask = "022" or umask = "027"'
_LARGEST_COUNT = 2**31 - 1  # the kernel's own ceilings (fs.nr_open, kernel.pid_max) are far below
_MOST_GROUPS = 1000
_SMALLEST_MEMORY_BYTES = 1024 * 1024  # less than a shell needs is a slip of the unit
_EXAMPLES = {LimitKind.COUNT: "65536", LimitKind.SIZE: "512MiB", LimitKind.SECONDS: "1h"}


def read_permissions(table: Table) -> Permissions:
    return Permissions(
        user=read_account(table, "user"),
        group=read_account(table, "group"),
        supplementary_groups=_read_groups(table),
        umask=_read_umask(table),
        nice=table.integer("nice", None, -20, 19),
        limits=_read_limits(table),
    )


def _read_groups(table: Table) -> tuple[str, ...] | None:
    value = table.raw("supplementary_groups")
    if value is None:
        return None
    example = 'write supplementary_groups = ["video", "1000"], or [] for none'
    if not isinstance(value, list) or len(value) > _MOST_GROUPS:
        table.note("supplementary_groups", f"{show_value(value)} is not an array of groups", example)
        return None
    groups = []
    for index, item in enumerate(value):
        try:
            if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**32 - 1:
                groups.append(str(item))
            elif isinstance(item, str):
                groups.append(account(table.expanded(item, example)))
            else:
                raise BadValue(f"{show_value(item)} is not a group", example)
        except BadValue as bad:
            table.scope.note((*table.path, "supplementary_groups", index), bad.message, bad.fix)
    return tuple(groups)


def _read_umask(table: Table) -> int | None:
    value = table.raw("umask")
    if isinstance(value, int) and not isinstance(value, bool):
        table.note("umask", f"{show_value(value)} is a number, not octal text", f"{_UMASK_FIX}, in quotes")
        return None
    return table.parsed("umask", None, "022", _umask)


def _umask(text: str) -> int:
    if not _UMASK.fullmatch(text) or int(text.removeprefix("0o"), 8) > 0o777:
        raise BadValue(f"{show_text(text)} is not an octal umask of at most 777", _UMASK_FIX)
    return int(text.removeprefix("0o"), 8)


def _read_limits(table: Table) -> dict[str, Limit]:
    section = table.table("limits", "limits = { nofile = 65536, core = 0 }")
    limits = {}
    for name, kind in LIMIT_KINDS.items():
        value = section.raw(name)
        if value is not None:
            limit = section.attempt(name, functools.partial(_limit, section, value, kind), None)
            if limit is not None:
                limits[name] = limit
    section.finish()
    return limits


def _limit(section: Table, value: Any, kind: LimitKind) -> Limit:
    example = _EXAMPLES[kind]
    fix = f'write "{example}", "unlimited", or two of them as "soft:hard"'
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise BadValue(f"{show_value(value)} is not a limit", fix)
    parts = section.expanded(value, fix).split(":")
    if len(parts) > 2:
        raise BadValue(f"{show_text(value)} has more than two parts", fix)
    amounts = [_amount(part.strip(), kind, fix) for part in parts]
    limit = Limit(amounts[0], amounts[-1])
    if limit.hard is not None and (limit.soft is None or limit.soft > limit.hard):
        raise BadValue(f"the soft limit of {show_text(value)} is above the hard one", f'write "{limit.hard}" for both')
    return limit


def _amount(text: str, kind: LimitKind, fix: str) -> int | None:
    if text == "unlimited":
        return None
    if text.isascii() and text.isdigit() and len(text) < 17:
        found = int(text)
    elif kind is LimitKind.SIZE:
        found = parse_size(text)
    elif kind is LimitKind.SECONDS:
        seconds = parse_duration(text)
        if seconds != int(seconds):
            raise BadValue(f"{show_text(text)} is finer than a second", "round it to seconds")
        found = int(seconds)
    else:
        raise BadValue(f"{show_text(text)} is not a number", fix)
    if kind is not LimitKind.SIZE and found > _LARGEST_COUNT:
        raise BadValue(f"{found} is above {_LARGEST_COUNT}", 'write "unlimited" for no limit')
    return found


def read_group_limits(table: Table) -> GroupLimits | None:
    """Return the limits of the process's own control group; None when it is to have none."""
    limits = GroupLimits(
        memory_max_bytes=size(table, "memory_max", None, _SMALLEST_MEMORY_BYTES, LARGEST_SIZE_BYTES, "1GiB"),
        cpu_max_cores=number(table, "cpu_max", 1, 0.01, 1000) if table.has("cpu_max") else None,
        pids_max=table.integer("pids_max", None, 1, _LARGEST_COUNT),
    )
    table.raw("cpu_max")
    is_limited = limits != GroupLimits()
    has_group = flag(table, "cgroup", is_limited)
    if is_limited and not has_group:
        table.note(
            "cgroup",
            "memory_max, cpu_max and pids_max are limits of a control group, and cgroup = false asks for none",
            "remove cgroup, or the limits",
        )
    return limits if has_group else None
