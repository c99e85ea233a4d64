"""What a process runs as and may use, and what a stop of it reaches: values of the config."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


class KillMode(enum.Enum):
    """Whom the stop signal, and later SIGKILL, are sent to."""

    TREE = "tree"  # the process group, then every descendant, those that left the group included
    GROUP = "group"  # the process group; descendants that left it run on
    PROCESS = "process"  # the process alone; whatever it has started runs on


class LimitKind(enum.Enum):
    COUNT = "count"
    SIZE = "size"  # bytes
    SECONDS = "seconds"


# The names are those of setrlimit(2), without RLIMIT_ and in small letters.
LIMIT_KINDS: Final[Mapping[str, LimitKind]] = {
    "nofile": LimitKind.COUNT,
    "nproc": LimitKind.COUNT,
    "core": LimitKind.SIZE,
    "as": LimitKind.SIZE,
    "fsize": LimitKind.SIZE,
    "memlock": LimitKind.SIZE,
    "stack": LimitKind.SIZE,
    "data": LimitKind.SIZE,
    "cpu": LimitKind.SECONDS,
}


@dataclass(frozen=True, slots=True)
class Limit:
    """One resource limit; None: unlimited."""

    soft: int | None
    hard: int | None

    def __str__(self) -> str:
        soft, hard = ("unlimited" if value is None else str(value) for value in (self.soft, self.hard))
        return soft if soft == hard else f"{soft}:{hard}"


@dataclass(frozen=True, slots=True)
class Permissions:
    """None, or nothing in ``limits``: as the daemon's own. Accounts are names or numbers, as written."""

    user: str | None = None
    group: str | None = None  # None: the user's
    supplementary_groups: tuple[str, ...] | None = None  # None: those the user is a member of
    umask: int | None = None
    nice: int | None = None
    limits: Mapping[str, Limit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """What the whole tree of a process may use, kept by the kernel (cgroup v2); None: no limit."""

    memory_max_bytes: int | None = None
    cpu_max_cores: float | None = None
    pids_max: int | None = None
