"""How healing holds back after a failure: not every minute the same start that fails. The record and the rule.

The record lies in the runtime directory, as JSON. Its times are seconds of the clock that runs since boot: a reboot
makes it void, and setting the clock does not.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

RECORD_NAME: Final = "heal.json"
# A bit less than cron's minute: the second try comes with the next run, then after 2, 4, 8 … minutes.
_FIRST_DELAY_SECONDS: Final = 50.0
_MAX_DELAY_SECONDS: Final = 1800.0


@dataclass(frozen=True, slots=True)
class HealRecord:
    """What healing remembers: how often in a row it failed, why, when it tries again, under which circumstances."""

    boot_id: str
    failures: int = 0
    retry_at: float = 0.0
    reason: str = ""
    circumstances: str = ""
    silent_since: float | None = None  # since when a busy daemon has not answered


def delay_after(failures: int) -> float:
    """Return the seconds to hold back after ``failures`` in a row."""
    return min(_FIRST_DELAY_SECONDS * 2.0 ** min(max(failures, 1) - 1, 20), _MAX_DELAY_SECONDS)


def failed(record: HealRecord, reason: str, circumstances: str, now: float) -> HealRecord:
    """Return ``record`` after one more failure; another reason, or changed circumstances, begin the count again."""
    is_same = record.circumstances == circumstances
    failures = record.failures + 1 if is_same else 1
    return replace(
        record,
        failures=failures,
        retry_at=now + delay_after(failures),
        reason=reason,
        circumstances=circumstances,
        silent_since=None,
    )


def wait_seconds(record: HealRecord, circumstances: str, now: float) -> float:
    """Return how long to hold back still; 0 when something has changed that may help (config, release, code)."""
    if record.failures == 0 or record.circumstances != circumstances:
        return 0.0
    # A value that no run of ours wrote must not hold back for ever.
    return min(max(record.retry_at - now, 0.0), _MAX_DELAY_SECONDS)


def decode(data: bytes, boot_id: str) -> HealRecord:
    """Return the record in ``data``; an empty one when that is of another boot or makes no sense."""
    empty = HealRecord(boot_id)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return empty
    if not isinstance(found, dict) or found.get("boot_id") != boot_id:
        return empty
    return HealRecord(
        boot_id=boot_id,
        failures=int(_number(found, "failures")),
        retry_at=_number(found, "retry_at"),
        reason=_text(found, "reason"),
        circumstances=_text(found, "circumstances"),
        silent_since=None if found.get("silent_since") is None else _number(found, "silent_since"),
    )


def _number(found: Mapping[str, object], key: str) -> float:
    value = found.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12 else 0.0


def _text(found: Mapping[str, object], key: str) -> str:
    value = found.get(key)
    return value if isinstance(value, str) else ""


def read_record(runtime_dir: str, boot_id: str) -> HealRecord:
    """Return what the last run remembered."""
    try:
        return decode(Path(runtime_dir, RECORD_NAME).read_bytes(), boot_id)
    except OSError:
        return HealRecord(boot_id)


def write_record(runtime_dir: str, record: HealRecord) -> None:
    """Remember ``record``. A full disk is no reason not to heal: what cannot be written is not remembered."""
    path = Path(runtime_dir, RECORD_NAME)
    temporary = path.with_name(f"{RECORD_NAME}.new")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(asdict(record)) + "\n", encoding="ascii")
        temporary.replace(path)


def clear_record(runtime_dir: str) -> None:
    """Forget all failures: it serves."""
    with contextlib.suppress(OSError):
        os.unlink(Path(runtime_dir, RECORD_NAME))  # noqa: PTH108
