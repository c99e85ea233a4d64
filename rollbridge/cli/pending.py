"""What is being waited for, and until when: lines from the document of ``status``; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

Document = Mapping[str, Any]


def pending(status: Document, now: float) -> list[str]:
    """Return a line for each release or process that is on its way to another state; ``now`` in epoch seconds."""
    lines = []
    for release in _dicts(status.get("releases")):
        processes = _dicts(release.get("processes"))
        if release.get("state") == "draining":
            lines.append(f"{release.get('release_id')} ends: {_of_draining(release, processes, now)}")
        elif release.get("state") == "starting":
            lines.append(f"{release.get('release_id')} starts: {_of_starting(processes)}")
        else:
            lines += _of_processes(processes)
    for kind in ("services", "singletons"):
        lines += _of_processes(_dicts(status.get(kind)))
    return lines


def _of_draining(release: Document, processes: list[Document], now: float) -> str:
    counts = release.get("connections") or {}
    open_now = int(counts.get("http") or 0) + int(counts.get("websocket") or 0)
    end = _seconds(release.get("drain_ends_at"))
    if open_now and end is not None and end > now:
        what = "connection" if open_now == 1 else "connections"
        return f"waits for {open_now} {what}, until {_clock(end)} ({_left(end - now)} left)"
    alive = [str(process.get("id")) for process in processes if process.get("state") in ("running", "stopping")]
    return f"waits for the end of {', '.join(alive)}" if alive else "its last processes have ended"


def _of_starting(processes: list[Document]) -> str:
    proxied = [str(one.get("id")) for one in processes if one.get("policy") == "proxied"]
    early = [str(one.get("id")) for one in processes if one.get("state") == "starting"]
    return f"waits until {', '.join(proxied or early)} is healthy" if proxied or early else "its processes come next"


def _of_processes(processes: list[Document]) -> Iterator[str]:
    for process in processes:
        if process.get("state") == "stopping":
            yield f"{process.get('id')} ends: pid {process.get('pid')} was told to"
        elif process.get("state") == "starting":
            yield f"{process.get('id')} starts" + (", after it ended by itself" if process.get("restarts") else "")


def _seconds(moment: object) -> float | None:
    try:
        return datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else None
    except ValueError:
        return None


def _clock(seconds: float) -> str:
    """The time of day where the reader is."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S")


def _left(seconds: float) -> str:
    from rollbridge.cli.render import age

    return age(seconds)


def _dicts(value: object) -> list[Document]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
