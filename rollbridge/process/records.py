"""What the state file keeps of a managed process: identity, counters, offsets; never what it was started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from rollbridge.process.identity import ProcessIdentity

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """``identity`` and ``token`` are None when nothing of its tree was left; monotonic times are of ``boot_id``.

    A ``token`` without ``identity`` is that of a start that was going on.
    """

    instance_id: str
    release_id: str  # whose definition runs; for services and singletons it may lag behind the active release
    state: str
    identity: ProcessIdentity | None
    token: str | None
    last_start_reason: str | None
    started_at: str | None
    started_monotonic: float | None
    boot_id: str
    exit_code: int | None
    exit_signal: int | None
    has_exited: bool
    restarts: int
    restart_times: tuple[float, ...]
    memory_restarts: int
    last_memory_restart_at: str | None
    is_memory_warned: bool
    is_probation: bool
    output: Mapping[str, object]


def encode_record(record: ProcessRecord) -> dict[str, object]:
    """As JSON values."""
    identity = record.identity
    return {
        "id": record.instance_id,
        "release_id": record.release_id,
        "state": record.state,
        "pid": identity.pid if identity else None,
        "start_ticks": identity.start_ticks if identity else None,
        "boot_id": record.boot_id,
        "instance": record.token,
        "last_start_reason": record.last_start_reason,
        "started_at": record.started_at,
        "started_monotonic": record.started_monotonic,
        "exit_code": record.exit_code,
        "exit_signal": record.exit_signal,
        "has_exited": record.has_exited,
        "restarts": record.restarts,
        "restart_times": list(record.restart_times),
        "memory_restarts": record.memory_restarts,
        "last_memory_restart_at": record.last_memory_restart_at,
        "is_memory_warned": record.is_memory_warned,
        "is_probation": record.is_probation,
        "output": dict(record.output),
    }


def decode_record(data: Mapping[str, object]) -> ProcessRecord:
    """The opposite; raises ValueError for values of a wrong kind. An identity that lacks a part is none at all."""
    boot_id = take(data, "boot_id", str, "")
    pid, start_ticks = take_or_none(data, "pid", int), take_or_none(data, "start_ticks", int)
    # Without a start time nobody can tell whose pid it is by now: unverifiable is not a match.
    is_complete = pid is not None and pid > 1 and start_ticks is not None and boot_id
    times = take(data, "restart_times", list, [])
    return ProcessRecord(
        instance_id=take(data, "id", str, ""),
        release_id=take(data, "release_id", str, ""),
        state=take(data, "state", str, "failed"),
        identity=ProcessIdentity(pid, start_ticks, boot_id)
        if is_complete and pid and start_ticks is not None
        else None,
        token=take_or_none(data, "instance", str),
        last_start_reason=take_or_none(data, "last_start_reason", str),
        started_at=take_or_none(data, "started_at", str),
        started_monotonic=take_or_none(data, "started_monotonic", float),
        boot_id=boot_id,
        exit_code=take_or_none(data, "exit_code", int),
        exit_signal=take_or_none(data, "exit_signal", int),
        has_exited=take(data, "has_exited", bool, False),
        restarts=take(data, "restarts", int, 0),
        restart_times=tuple(float(moment) for moment in times if isinstance(moment, int | float)),
        memory_restarts=take(data, "memory_restarts", int, 0),
        last_memory_restart_at=take_or_none(data, "last_memory_restart_at", str),
        is_memory_warned=take(data, "is_memory_warned", bool, False),
        is_probation=take(data, "is_probation", bool, False),
        output=take(data, "output", dict, {}),
    )


def take_or_none(data: Mapping[str, object], key: str, kind: type[T]) -> T | None:
    return None if data.get(key) is None else _take(data, key, kind)


def take(data: Mapping[str, object], key: str, kind: type[T], default: T) -> T:
    return _take(data, key, kind) if key in data else default


def _take(data: Mapping[str, object], key: str, kind: type[T]) -> T:
    value = data[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key} is {value!r}, not of kind {kind.__name__}")
    return value
