"""Tables that read well both in a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Padded Markdown; all but the first two columns are aligned to the right."""
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    aligned = [f":{'-' * (width + 1)}" if at < 2 else f"{'-' * (width + 1)}:" for at, width in enumerate(widths)]
    lines = [_line(heading, widths), "|" + "|".join(aligned) + "|", *(_line(row, widths) for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        cell.ljust(width) if at < 2 else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "| " + " | ".join(padded) + " |"


def with_ratio(value: float, base: float | None, form: str) -> str:
    """``value`` and, in brackets, the ratio given; None: there is nothing to compare with."""
    return f"{value:{form}}" if base is None else f"{value:{form}} ({base:.2f})"
