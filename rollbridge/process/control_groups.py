"""Control groups (cgroup v2): one for each start that asks for it, so that limits hold for the whole tree and a kill
misses nobody.

A group's name holds the token of its start: whoever adopts the process finds it by that, and the kernel keeps the
members whatever becomes of the daemon. We never move ourselves: a service manager puts the next daemon where this one
was, and could not, if that had become an inner node. Nothing here is needed to run: what cannot be done is said once.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rollbridge.config.model import GroupLimits

CPU_PERIOD_MICROSECONDS = 100_000  # the kernel's default


@dataclass(frozen=True, slots=True)
class Mount:
    """Where the file system of groups is mounted; ``root`` is the group that its top shows."""

    root: str
    point: str


def find_mount(mountinfo: str) -> Mount | None:
    """Return the cgroup2 mount that ``/proc/self/mountinfo`` names, None when there is none (proc(5))."""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 ") and len(words := fields.split(" ")) > 4:
            return Mount(_unescape(words[3]), _unescape(words[4]))
    return None


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def group_directory(mount: Mount, proc_cgroup: str) -> Path | None:
    """Return the directory of the group that ``/proc/<pid>/cgroup`` names; None when it lies outside of the mount."""
    for line in proc_cgroup.splitlines():
        if line.startswith("0::"):
            path = Path(line.removeprefix("0::").removesuffix(" (deleted)"))
            if path.is_relative_to(mount.root):
                return Path(mount.point) / path.relative_to(mount.root)
    return None


def limit_files(limits: GroupLimits) -> dict[str, str]:
    """Return what is written into which file of a group (cgroup-v2, "Core Interface Files")."""
    files = {}
    if limits.memory_max_bytes is not None:
        files["memory.max"] = str(limits.memory_max_bytes)
    if limits.cpu_max_cores is not None:
        quota = max(1000, round(limits.cpu_max_cores * CPU_PERIOD_MICROSECONDS))  # below 1 ms the kernel refuses
        files["cpu.max"] = f"{quota} {CPU_PERIOD_MICROSECONDS}"
    if limits.pids_max is not None:
        files["pids.max"] = str(limits.pids_max)
    return files


def needed_controllers(limits: GroupLimits) -> list[str]:
    return [name.partition(".")[0] for name in limit_files(limits)]


class ControlGroups:
    """The groups of one daemon. Where they cannot be made, ``open`` says why and everything else does nothing."""

    def __init__(self, proc: str = "/proc/self") -> None:
        self._proc = Path(proc)
        self._paths: dict[str, Path | None] = {}  # by token: of our starts, and of adopted ones once looked for
        self._told: set[str] = set()
        self._has_tidied = False

    def base(self) -> Path | str:
        """Return the group below which ours are made, or why there is none."""
        try:
            mount = find_mount((self._proc / "mountinfo").read_text())
            own = group_directory(mount, (self._proc / "cgroup").read_text()) if mount else None
        except OSError as error:
            return f"/proc cannot be read: {error.strerror}"
        if own is None:
            return "no cgroup v2 file system is mounted for this process"
        # With DelegateSubgroup= of systemd the daemon is in a leaf, and the unit's own group is for us to divide.
        base = own.parent if _is_delegated(own.parent) and not _is_delegated(own) else own
        if not os.access(base, os.W_OK):
            return f"the control group {base} may not be written by uid {os.geteuid()}"
        return base

    def open(self, application: str, token: str, limits: GroupLimits) -> tuple[Path | None, str | None]:
        """Make the group of one start, with its limits; return it, and in one sentence what could not be done."""
        base = self.base()
        if isinstance(base, str):
            return None, f"{base}; {_FIX}"
        if not self._has_tidied:
            self._has_tidied = True
            self._remove_empty(base, application)
        path = base / f"rollbridge-{application}-{token}"
        try:
            path.mkdir()
        except OSError as error:
            return None, f"no control group can be made in {base}: {error.strerror}; {_FIX}"
        self._paths[token] = path
        return path, _set_limits(base, path, limits)

    def is_news(self, problem: str) -> bool:
        """Whether ``problem`` is told for the first time."""
        is_new = problem not in self._told
        self._told.add(problem)
        return is_new

    def find(self, token: str, leader_pid: int) -> Path | None:
        """Return the group of a start, also of one by an earlier daemon; None when it has none."""
        if token not in self._paths:
            self._paths[token] = self._search(token, leader_pid)
        return self._paths[token]

    def _search(self, token: str, leader_pid: int) -> Path | None:
        with contextlib.suppress(OSError):
            mount = find_mount((self._proc / "mountinfo").read_text())
            if mount is not None:
                found = group_directory(mount, Path(f"/proc/{leader_pid}/cgroup").read_text())
                # A process may have made groups of its own below the one it was put into.
                for path in (found, *found.parents) if found is not None else ():
                    if path.name.startswith("rollbridge-") and path.name.endswith(f"-{token}"):
                        return path
        base = self.base()
        if isinstance(base, Path):
            with contextlib.suppress(OSError):
                return next(base.glob(f"rollbridge-*-{token}"), None)
        return None

    def members(self, path: Path) -> set[int]:
        """Return the pids in the group and in those below it."""
        pids: set[int] = set()
        for directory, _, _ in os.walk(path):
            with contextlib.suppress(OSError):
                pids.update(int(line) for line in (Path(directory) / "cgroup.procs").read_text().split())
        return pids - {0}

    def kill(self, path: Path) -> bool:
        """SIGKILL everything in the group at once, what forks at this moment included (Linux 5.14)."""
        try:
            (path / "cgroup.kill").write_text("1")
        except OSError:
            return False  # an older kernel: the members are killed one by one, as without a group
        return True

    def close(self, token: str, leader_pid: int) -> None:
        """Remove the group of a start that is over; one that still has members stays until it has none."""
        path = self.find(token, leader_pid)
        del self._paths[token]
        if path is not None:
            _remove(path)

    def _remove_empty(self, base: Path, application: str) -> None:
        """Remove what earlier daemons of this application have left; never one that a start is about to join."""
        name = re.compile(rf"rollbridge-{re.escape(application)}-([0-9a-f]{{32}})")
        with contextlib.suppress(OSError):
            for path in base.iterdir():
                found = name.fullmatch(path.name)
                if found and found[1] not in self._paths:
                    _remove(path)


_FIX = "run the daemon as root, or in a unit with Delegate=yes and DelegateSubgroup=daemon"


def missing_for(limits: Mapping[str, GroupLimits], groups: ControlGroups) -> list[str]:
    """Return, one sentence each, what this machine lacks for the limits of the processes, by id; changes nothing."""
    if not limits:
        return []
    base = groups.base()
    if isinstance(base, str):
        return [f"{base}; {_FIX}"]
    available, enabled = _words(base / "cgroup.controllers"), _words(base / "cgroup.subtree_control")
    # The root group alone, which has no type, may have processes and hand controllers on.
    is_inner = (base / "cgroup.type").exists() and bool(_words(base / "cgroup.procs"))
    missing = []
    for process_id, wanted in limits.items():
        for name in needed_controllers(wanted):
            if name not in available:
                missing.append(f"processes.{process_id}: {_unavailable(name, base)}")
            elif name not in enabled and is_inner:
                what = f"the controller {name} cannot be handed on by {base}, which has processes itself"
                missing.append(f"processes.{process_id}: {what}; {_FIX}")
    return missing


def _set_limits(base: Path, path: Path, limits: GroupLimits) -> str | None:
    """Write the limits; return what could not be set."""
    available = _words(base / "cgroup.controllers")
    for name, value in limit_files(limits).items():
        controller = name.partition(".")[0]
        if controller not in available:
            return _unavailable(controller, base)
        try:
            if controller not in _words(base / "cgroup.subtree_control"):
                (base / "cgroup.subtree_control").write_text(f"+{controller}")
            (path / name).write_text(value)
        except OSError as error:
            return f"{name} of the control group in {base} cannot be set: {error.strerror}; {_FIX}"
    return None


def _unavailable(controller: str, base: Path) -> str:
    return (
        f"the controller {controller} is not available in {base}, so {controller}_max limits nothing; let the "
        "service manager delegate it (Delegate=yes), or boot with cgroup v2 alone"
    )


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


def _is_delegated(path: Path) -> bool:
    try:
        return os.getxattr(path, "user.delegate") == b"1"
    except OSError:
        return False


def _remove(path: Path) -> None:
    """Remove ``path`` and the groups below it, as far as they are empty."""
    for directory, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(directory)  # noqa: PTH106 - the walk gives texts
