"""From the names in the config to the numbers a start needs: users, groups, limits; and what is not permitted."""

from __future__ import annotations

import grp
import os
import pwd
import resource
from collections.abc import Mapping
from dataclasses import dataclass

from rollbridge.config.issues import ConfigIssue
from rollbridge.config.model import Config, Limit, Permissions, ProcessConfig
from rollbridge.process.spawning import StartFailed


@dataclass(frozen=True, slots=True)
class EntryLimit:
    """In the units of setrlimit(2); ``resource.RLIM_INFINITY`` for none."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What a child does before it becomes its program; None: stays as the daemon is. ``name`` is for messages."""

    name: str
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None
    umask: int | None = None
    nice: int | None = None
    limits: tuple[EntryLimit, ...] = ()
    cgroup: str | None = None

    @property
    def is_plain(self) -> bool:
        return self == Entry(self.name)


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides whether the daemon may do what a process asks for. ``hard_limits``: None is unlimited."""

    uid: int
    hard_limits: Mapping[str, int | None]
    lowest_nice: int  # that may be reached without privileges


def look_at_machine() -> Machine:
    hard = {name: resource.getrlimit(number)[1] for name, number in _limit_numbers().items()}
    return Machine(
        uid=os.geteuid(),
        hard_limits={name: None if value == resource.RLIM_INFINITY else value for name, value in hard.items()},
        lowest_nice=min(
            os.getpriority(os.PRIO_PROCESS, 0),
            20 - min(40, resource.getrlimit(resource.RLIMIT_NICE)[0] % 2**63),  # 20 - limit: getrlimit(2)
        ),
    )


def _limit_numbers() -> dict[str, int]:
    names = ("nofile", "nproc", "core", "as", "fsize", "memlock", "stack", "data", "cpu")
    return {name: getattr(resource, f"RLIMIT_{name.upper()}") for name in names}


def enter_as(process: ProcessConfig) -> Entry:
    """Return how ``process`` is started; raise StartFailed when an account is unknown or something not permitted."""
    if process.permissions == Permissions():
        return Entry("the daemon's user")
    problems = process_problems(process, look_at_machine())
    if problems:
        raise StartFailed(problems[0].text)
    wanted = process.permissions
    # Without root only what we are already is permitted, and nothing need be done for it.
    uid, gid, groups = _identity(wanted) if os.geteuid() == 0 else (None, None, None)
    return Entry(
        name=f"user {wanted.user}" if wanted.user else f"group {wanted.group}" if wanted.group else "the daemon's user",
        uid=uid,
        gid=gid,
        groups=groups,
        umask=wanted.umask,
        nice=wanted.nice,
        limits=tuple(_entry_limit(name, limit) for name, limit in wanted.limits.items()),
    )


def hook_entry(process: ProcessConfig) -> Entry:
    """How hooks and ``env_command`` are started: as the same user, without the limits of the process's own work."""
    entry = enter_as(process)
    return Entry(entry.name, entry.uid, entry.gid, entry.groups, entry.umask)


def user_environment(process: ProcessConfig) -> dict[str, str]:
    """HOME, USER, LOGNAME and SHELL of the process's user, when it has one of its own."""
    user = process.permissions.user
    if user is None:
        return {}
    found = _user_entry(user)
    if found is None:
        return {"HOME": "/", "USER": user, "LOGNAME": user, "SHELL": "/bin/sh"}
    return {
        "HOME": found.pw_dir,
        "USER": found.pw_name,
        "LOGNAME": found.pw_name,
        "SHELL": found.pw_shell or "/bin/sh",
    }


def permission_problems(config: Config) -> tuple[ConfigIssue, ...]:
    """What of ``config`` this user cannot do on this machine, all processes together."""
    machine = look_at_machine()
    return tuple(problem for process in config.processes.values() for problem in process_problems(process, machine))


def process_problems(process: ProcessConfig, machine: Machine) -> list[ConfigIssue]:
    """Look up the accounts, then see what is permitted."""
    wanted = process.permissions
    place = f"processes.{process.id}"
    problems = []
    if wanted.user is not None and not wanted.user.isdigit() and _user_entry(wanted.user) is None:
        problems.append(_unknown(f"{place}.user", "user", wanted.user, "useradd --system"))
    for key, names in (
        ("group", () if wanted.group is None else (wanted.group,)),
        ("supplementary_groups", wanted.supplementary_groups or ()),
    ):
        for name in names:
            if _group_number(name) is None:
                problems.append(_unknown(f"{place}.{key}", "group", name, "groupadd --system"))
    if wanted.user is not None and wanted.user.isdigit() and wanted.group is None and _user_entry(wanted.user) is None:
        problems.append(
            ConfigIssue(f"{place}.user", f"uid {wanted.user} has no account, so no group either", "add group = ...")
        )
    if not problems and machine.uid != 0:
        problems += forbidden(place, wanted, machine, is_self=_is_self(wanted, machine.uid))
    return problems


def forbidden(place: str, wanted: Permissions, machine: Machine, *, is_self: bool) -> list[ConfigIssue]:
    """What a daemon that is not root may not do. Pure."""
    problems = []
    if not is_self:
        key = "user" if wanted.user is not None else "group" if wanted.group is not None else "supplementary_groups"
        problems.append(
            ConfigIssue(
                f"{place}.{key}",
                f"only root can start a process as somebody else, and this is uid {machine.uid}",
                "run the daemon as root, or remove user, group and supplementary_groups",
            )
        )
    if wanted.nice is not None and wanted.nice < machine.lowest_nice:
        problems.append(
            ConfigIssue(
                f"{place}.nice",
                f"{wanted.nice} is below {machine.lowest_nice}, the least that uid {machine.uid} may set",
                f"run the daemon as root, or choose {machine.lowest_nice} or more",
            )
        )
    for name, limit in wanted.limits.items():
        own = machine.hard_limits.get(name)
        if own is not None and (limit.hard is None or limit.hard > own):
            problems.append(
                ConfigIssue(
                    f"{place}.limits.{name}",
                    f"{limit} is above the hard limit of the daemon, {own}, which only root may exceed",
                    f"choose at most {own}, raise the daemon's own limit, or run it as root",
                )
            )
    return problems


def _unknown(where: str, kind: str, name: str, command: str) -> ConfigIssue:
    return ConfigIssue(where, f"there is no {kind} {name} on this machine", f"run {command} {name}, or name another")


def _is_self(wanted: Permissions, uid: int) -> bool:
    """Whether what is wanted is what a daemon of ``uid`` is already."""
    if wanted.user is None and wanted.group is None and wanted.supplementary_groups is None:
        return True
    found_uid, gid, groups = _identity(wanted)
    own_groups = {os.getegid(), *os.getgroups()}
    is_same_group = gid in (None, os.getegid()) and (groups is None or {*groups, os.getegid()} == own_groups)
    return found_uid in (None, uid) and is_same_group


def _identity(wanted: Permissions) -> tuple[int | None, int | None, tuple[int, ...] | None]:
    """Return uid, gid and supplementary groups; the accounts exist. None: whatever the daemon has."""
    found = None if wanted.user is None else _user_entry(wanted.user)
    uid = None if wanted.user is None else found.pw_uid if found else int(wanted.user)
    gid = _group_number(wanted.group) if wanted.group is not None else found.pw_gid if found else None
    groups: tuple[int, ...] | None = None
    if wanted.supplementary_groups is not None:
        groups = tuple(number for name in wanted.supplementary_groups if (number := _group_number(name)) is not None)
    elif found is not None and gid is not None:
        groups = tuple(os.getgrouplist(found.pw_name, gid))
    elif uid is not None:
        groups = ()
    return uid, gid, groups


def _user_entry(user: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        return None


def _group_number(group: str) -> int | None:
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def _entry_limit(name: str, limit: Limit) -> EntryLimit:
    soft, hard = (resource.RLIM_INFINITY if value is None else value for value in (limit.soft, limit.hard))
    return EntryLimit(name, soft, hard)
