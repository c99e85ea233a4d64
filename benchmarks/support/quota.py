"""Processes held to a share of a core each by control groups: what they serve then is limited by nothing else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

PERIOD_MICROSECONDS = 20_000
_V1 = Path("/sys/fs/cgroup/cpu")
_V2 = Path("/sys/fs/cgroup")


class NoQuota(Exception):
    """The kernel, or who runs this, may not limit processes; the text says why."""


@contextlib.contextmanager
def limited(pids: Sequence[int], core_share: float) -> Iterator[None]:
    """Let each of ``pids`` have no more than ``core_share`` of a core while the block runs. Raises NoQuota."""
    with contextlib.ExitStack() as stack:
        try:
            for pid in pids:
                stack.enter_context(_limited(pid, round(core_share * PERIOD_MICROSECONDS)))
        except OSError as error:
            raise NoQuota(f"no control group for the processor can be made: {error}") from error
        yield


@contextlib.contextmanager
def _limited(pid: int, quota_microseconds: int) -> Iterator[None]:
    is_v1 = (_V1 / "cpu.cfs_quota_us").exists() or (_V1 / "cgroup.procs").exists()
    former = _group_of(pid, is_v1)
    group = former / f"rollbridge-benchmark-{os.getpid()}-{pid}"
    group.mkdir()
    try:
        if is_v1:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
            (group / "cpu.cfs_quota_us").write_text(str(quota_microseconds))
        else:
            (group / "cpu.max").write_text(f"{quota_microseconds} {PERIOD_MICROSECONDS}")
        (group / "cgroup.procs").write_text(str(pid))
        try:
            yield
        finally:
            (former / "cgroup.procs").write_text(str(pid))
    finally:
        group.rmdir()


def _group_of(pid: int, is_v1: bool) -> Path:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        if is_v1 and "cpu" in controllers.split(","):
            return _V1 / path.lstrip("/")
        if not is_v1 and not controllers:
            return _V2 / path.lstrip("/")
    raise OSError("the process is in no group that limits the processor")
