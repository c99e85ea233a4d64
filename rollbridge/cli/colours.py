"""Colours for a terminal: laid over a finished page, so that no width changes; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_RESET: Final = "\x1b[0m"
_BOLD: Final = "\x1b[1m"
_RED: Final = "\x1b[31m"
_GREEN: Final = "\x1b[32m"
_YELLOW: Final = "\x1b[33m"
_DIM: Final = "\x1b[2m"
_OF_STATES: Final[Mapping[str, str]] = {
    "active": _GREEN,
    "running": _GREEN,
    "starting": _YELLOW,
    "stopping": _YELLOW,
    "draining": _YELLOW,
    "stopped": _DIM,
    "failed": _RED,
}
_STATE: Final = re.compile(rf"(?<=  )({'|'.join(_OF_STATES)})(?=  |$)")
_HEADS: Final = ("RELEASE  ", "PROCESS  ")


def is_coloured(is_terminal: bool, environ: Mapping[str, str]) -> bool:
    """Whether to colour (https://no-color.org): only for a terminal that can, and that was not asked not to."""
    return is_terminal and not environ.get("NO_COLOR") and environ.get("TERM", "dumb") != "dumb"


def paint(page: str) -> str:
    """Return the page of ``status`` with its tables' heads and states, and what is wrong, in colour."""
    painted = []
    is_table = False
    for line in page.split("\n"):
        if line.startswith(_HEADS) or re.match(r"(RELEASE|PROCESS) +STATE|PROCESS +POLICY", line):
            is_table = True
            painted.append(f"{_BOLD}{line}{_RESET}")
            continue
        is_table = is_table and bool(line)
        if is_table:
            painted.append(_STATE.sub(lambda found: f"{_OF_STATES[found[1]]}{found[1]}{_RESET}", line, count=1))
        elif line.startswith(("last failure:", "orphans:")):
            head, _, rest = line.partition(":")
            painted.append(f"{_RED}{head}:{_RESET}{rest}")
        else:
            painted.append(line)
    return "\n".join(painted)
