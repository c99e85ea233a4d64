"""How the demo ended, as a table that fits 80 columns and as JSON."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rollbridge.demo.jobs import JobCounts
from rollbridge.demo.ledger import KindSummary, WebSocketSummary

WIDTH: Final = 79
MAX_FAILURES_SHOWN: Final = 10
HEADINGS: Final = ("traffic", "requests", "failed", "cut*", "p50", "p99", "longest gap")
WIDTHS: Final = (19, 9, 7, 5, 9, 9, 12)


@dataclass(frozen=True, slots=True)
class Report:
    """``problems``: a sentence for each thing that failed; none: the demo passed."""

    kinds: tuple[KindSummary, ...]  # the total last
    websockets: WebSocketSummary
    jobs: JobCounts
    recovery_seconds: float | None  # from kill -9 to the first answer of a new web process; None: not come so far
    seconds: float
    problems: tuple[str, ...]


def to_json(report: Report) -> dict[str, object]:
    """The shape that ``demo --json`` prints."""
    return {
        "status": "error" if report.problems else "success",
        "seconds": round(report.seconds, 3),
        "traffic": [dataclasses.asdict(kind) for kind in report.kinds],
        "websockets": dataclasses.asdict(report.websockets),
        "jobs": dataclasses.asdict(report.jobs),
        "recovery_seconds": report.recovery_seconds,
        "problems": list(report.problems),
    }


def to_text(report: Report) -> str:
    """The table, what it leaves out, and the verdict; only the verdict when there was no traffic."""
    sections = [show_table(report), show_footnote()] if report.kinds[-1].requests else []
    return "\n\n".join([*sections, show_verdict(report)])


def show_table(report: Report) -> str:
    jobs, websockets = report.jobs, report.websockets
    lines = [row(HEADINGS)]
    lines += [row(cells(kind)) for kind in report.kinds]
    lines += [
        "",
        f"jobs        {jobs.queued} queued, {jobs.done} done, {jobs.duplicated} run twice, {jobs.lost} lost",
        f"WebSockets  {websockets.opened} opened, {websockets.outlived_switch} outlived a switch, "
        f"{websockets.cut} cut, {websockets.cut_by_kill} cut by kill -9*",
    ]
    if report.recovery_seconds is not None:
        lines.append(f"kill -9     a new web process answered after {show_seconds(report.recovery_seconds)}")
    return "\n".join(lines)


def show_footnote() -> str:
    return (
        "* in the hands of the web process when it was killed: lost by nature, so not\n"
        "  counted as failed. Sent before the kill, ended by it, on that process."
    )


def show_verdict(report: Report) -> str:
    if not report.problems:
        return f"Nothing failed, in {report.seconds:.1f} s."
    lines = [
        textwrap.fill(f"FAILED: {problem}", WIDTH, subsequent_indent="  ")
        for problem in report.problems[:MAX_FAILURES_SHOWN]
    ]
    if len(report.problems) > MAX_FAILURES_SHOWN:
        lines.append(f"FAILED: and {len(report.problems) - MAX_FAILURES_SHOWN} more")
    return "\n".join(lines)


def row(texts: Sequence[str]) -> str:
    first, *others = zip(texts, WIDTHS, strict=True)
    return first[0].ljust(first[1]) + "".join(text.rjust(width) for text, width in others)


def cells(kind: KindSummary) -> tuple[str, ...]:
    return (
        kind.label,
        f"{kind.requests:,}",
        f"{kind.failures:,}",
        f"{kind.cut_by_kill:,}",
        show_seconds(kind.p50_seconds),
        show_seconds(kind.p99_seconds),
        show_seconds(kind.longest_gap_seconds),
    )


def show_seconds(seconds: float | None) -> str:
    """In ms below a second, with a decimal below 10 ms: ``0.4 ms``, ``125 ms``, ``1.25 s``."""
    if seconds is None:
        return "-"
    if seconds >= 0.9995:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.{0 if seconds >= 0.00995 else 1}f} ms"
