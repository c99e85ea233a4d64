"""``status``, ``events`` and ``logs`` for a person: text from the daemon's documents, within 80 columns."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rollbridge.cli.failures import visible
from rollbridge.cli.pending import pending

Document = Mapping[str, Any]

WIDTH: Final = 80
SHOWN_OUTPUT_LINES: Final = 10  # of a failed process, in status; `logs` has the rest
_NARROWEST_NAME: Final = 12


def render_status(status: Document, now: float, width: int = WIDTH) -> str:
    """Return the document of ``status --json`` as a page; ``now`` is seconds since the epoch."""
    parts = [
        _heading(status, now),
        _releases(status, now, width),
        _processes(status, width),
        _pending(status, now, width),
        _orphans(status, width),
        _last_failure(status, now, width),
    ]
    return "\n\n".join(part for part in parts if part)


def _heading(status: Document, now: float) -> str:
    daemon = status.get("daemon") or {}
    proxy = status.get("proxy") or {}
    workers = _workers(proxy)
    active = status.get("active_release_id")
    release = next((one for one in _dicts(status.get("releases")) if one.get("state") == "active"), None)
    rows = [
        ("application", str(status.get("application", ""))),
        (
            "daemon",
            f"pid {daemon.get('pid')}, rollbridge {status.get('version')}, up {_since(daemon.get('started_at'), now)}",
        ),
        ("proxy", f"{host_and_port(proxy)}, {workers}"),
        ("active", _named(release) if release else str(active or "none: the proxy answers 503")),
    ]
    if status.get("operation"):
        rows.append(("now", str(status["operation"])))
    if daemon.get("is_shutting_down"):
        rows.append(("now", "shutting down"))
    return "\n".join(visible(f"{name:12} {text}") for name, text in rows)


def _workers(proxy: Document) -> str:
    """Return how many workers accept, and how many only finish what they have, each with their pids."""
    listed = [worker for worker in proxy.get("workers") or [] if isinstance(worker, dict)]
    serving = [str(worker.get("pid")) for worker in listed if worker.get("state") != "retiring"]
    retiring = [str(worker.get("pid")) for worker in listed if worker.get("state") == "retiring"]
    text = f"{len(serving)} worker{'' if len(serving) == 1 else 's'}"
    text += f" (pid {', '.join(serving)})" if serving else ""
    return text + (f", {len(retiring)} retiring (pid {', '.join(retiring)})" if retiring else "")


def _named(release: Document) -> str:
    revision = release.get("revision")
    shown = f" (revision {revision})" if revision and revision != release.get("release_id") else ""
    return f"{release.get('release_id')}{shown} in {release.get('release_path')}"


def host_and_port(proxy: Document) -> str:
    """Return the proxy's address as it stands in a URL."""
    host = str(proxy.get("host", ""))
    return f"{f'[{host}]' if ':' in host else host}:{proxy.get('port')}"


def _releases(status: Document, now: float, width: int) -> str:
    rows = []
    for release in _dicts(status.get("releases")):
        connections = release.get("connections") or {}
        since = {"active": "activated_at", "draining": "drain_started_at"}.get(release.get("state", ""), "stopped_at")
        rows.append(
            (
                str(release.get("release_id")),
                str(release.get("state")),
                str(connections.get("http", 0)),
                str(connections.get("websocket", 0)),
                _since(release.get(since), now),
            )
        )
    return table(("RELEASE", "STATE", "HTTP", "WEBSOCKET", "SINCE"), rows, "<<>>>", width)


def _processes(status: Document, width: int) -> str:
    alive = [release for release in _dicts(status.get("releases")) if _has_processes(release)]
    processes = [process for release in alive for process in _dicts(release.get("processes"))]
    processes += [*_dicts(status.get("services")), *_dicts(status.get("singletons"))]
    rows = [
        (
            str(process.get("id")),
            str(process.get("policy", "")),
            str(process.get("state")),
            _or_dash(process.get("pid")),
            age(process.get("uptime_seconds")),
            _or_dash(process.get("restarts")),
            size(process.get("rss_bytes")) if process.get("pid") else "-",
        )
        for process in processes
    ]
    page = table(("PROCESS", "POLICY", "STATE", "PID", "UP", "RESTARTS", "MEMORY"), rows, "<<<>>>>", width)
    troubles = [line for process in processes for line in _trouble(process, width)]
    return "\n".join([page, *troubles]) if page else ""


def _has_processes(release: Document) -> bool:
    """Whether to list them: those of a stopped release are gone, and its row says that already."""
    return release.get("state") in ("starting", "active", "draining")


def _trouble(process: Document, width: int) -> list[str]:
    ended = _ending(process)
    why = "; ".join(str(part) for part in (process.get("failure"), ended) if part)
    if process.get("state") == "running" or not why:
        return []
    return _wrapped(f"{process.get('id')}: {why}", width, "  ")


def _ending(process: Document) -> str:
    if process.get("exit_signal") is not None:
        return f"last ended by {process['exit_signal']}"
    if process.get("exit_code") is not None:
        return f"last exit code {process['exit_code']}"
    return ""


def _pending(status: Document, now: float, width: int) -> str:
    return "\n".join(line for text in pending(status, now) for line in _wrapped(text, width, "  "))


def _orphans(status: Document, width: int) -> str:
    orphans = _dicts(status.get("orphans"))
    if not orphans:
        return ""
    names = ", ".join(f"{orphan.get('id')} (pid {orphan.get('pid')})" for orphan in orphans)
    return "\n".join(_wrapped(f"orphans: {names}", width, "  "))


def _last_failure(status: Document, now: float, width: int) -> str:
    failure = status.get("last_failure")
    if not isinstance(failure, dict):
        return ""
    which = f" of {failure['release_id']}" if failure.get("release_id") else ""
    head = f"last failure: deploy{which}, {_since(failure.get('at'), now)} ago, in phase {failure.get('phase')}"
    lines = [visible(head), *_wrapped(str(failure.get("message", "")), width, "  ", "  ")]
    if failure.get("probe"):
        lines += _wrapped(f"last probe: {failure['probe']}", width, "  ", "  ")
    output = failure.get("lines") or []
    lines += [f"  | {visible(str(line))}" for line in output[-SHOWN_OUTPUT_LINES:]]
    return "\n".join(lines)


def render_event(event: Document) -> str:
    """Return one event as a line: when, what, and its figures."""
    data = event.get("data") or {}
    figures = " ".join(f"{key}={_figure(value)}" for key, value in data.items() if value is not None)
    return visible(f"{event.get('at')}  {event.get('message')}{'  ' if figures else ''}{figures}")


def _figure(value: object) -> str:
    if isinstance(value, str) and value and value.isprintable() and not any(one in value for one in ' "='):
        return value
    return json.dumps(value, ensure_ascii=False)


def render_log(entry: Document, colour: str = "") -> str:
    """Return one line of output with its process in front; ``!`` marks stderr. The line itself is as it was printed.

    ``colour`` is the number of the process's colour (SGR), empty for none. A line from a file has no time.
    """
    mark = "!" if entry.get("stream") == "stderr" else "|"
    name = f"\x1b[{colour}m{entry.get('process')}\x1b[0m" if colour else str(entry.get("process"))
    at = f"{entry['at']} " if entry.get("at") else ""
    return f"{at}{name} {mark} {entry.get('line')}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], alignment: str, width: int) -> str:
    """Return a table; names in the first column lose their middle when it would be wider than ``width``.

    ``alignment`` has ``<`` or ``>`` for every column. Empty when there is no row.
    """
    if not rows:
        return ""
    shown = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(head), *(len(row[column]) for row in shown)) for column, head in enumerate(heads)]
    beside = sum(widths[1:]) + 2 * (len(heads) - 1)
    widths[0] = min(widths[0], max(width - beside, _NARROWEST_NAME))
    lines = []
    for row in (list(heads), *shown):
        cells = [shorten(row[0], widths[0]), *row[1:]]
        line = "  ".join(f"{cell:{side}{size}}" for cell, side, size in zip(cells, alignment, widths, strict=True))
        lines.append(line.rstrip())
    return "\n".join(lines)


def shorten(text: str, width: int) -> str:
    """Return ``text`` in at most ``width`` characters, both ends kept: they tell releases and replicas apart."""
    if len(text) <= width:
        return text
    tail = (width - 2) // 2
    return f"{text[: width - 2 - tail]}..{text[len(text) - tail :]}"


def age(seconds: object) -> str:
    """Return a time span in at most two units: ``12s``, ``4m10s``, ``3h12m``, ``5d3h``; ``-`` for None."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return "-"
    whole = max(int(seconds), 0)
    for unit, smaller, size, small_size in (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small_size}{smaller}"
    return f"{whole}s"


def size(count: object) -> str:
    """Return bytes as ``48M``: binary units, three digits at most; ``-`` for None."""
    if not isinstance(count, int | float) or isinstance(count, bool):
        return "-"
    amount = float(count)
    for unit in ("B", "K", "M", "G"):
        if amount < 999.5:
            return f"{amount:.1f}{unit}" if amount < 9.95 and unit != "B" else f"{amount:.0f}{unit}"
        amount /= 1024
    return f"{amount:.1f}T"


def _since(moment: object, now: float) -> str:
    """Return how long ago ``moment`` (UTC text) was."""
    if not isinstance(moment, str):
        return "-"
    try:
        return age(now - datetime.fromisoformat(moment).timestamp())
    except ValueError:
        return "-"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _dicts(value: object) -> list[Document]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _wrapped(text: str, width: int, later: str, first: str = "") -> list[str]:
    return textwrap.wrap(visible(" ".join(text.split())), width, initial_indent=first, subsequent_indent=later)
