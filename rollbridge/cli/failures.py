"""From an exception to what the operator is told: a sentence, an exit code, and for JSON its data."""

from __future__ import annotations

import os
import traceback

from rollbridge.cli.errors import USAGE, CliError

DEBUG_VARIABLE = "ROLLBRIDGE_DEBUG"


def explain(error: Exception) -> CliError:
    """Return what to tell about ``error``; an exception that nobody foresaw is a defect of ours and says so."""
    # Imported now, when one of them may have been raised: most commands end without any.
    from rollbridge.bundle import MissingPsutil
    from rollbridge.config.issues import ConfigError
    from rollbridge.control.client import ControlError

    if isinstance(error, CliError):
        return error
    if isinstance(error, ControlError):
        return CliError(error.message, error.exit_code, error.data)
    if isinstance(error, ConfigError):
        problems = [issue._asdict() for issue in error.issues]
        return CliError(str(error), USAGE, {"problems": problems})
    if isinstance(error, MissingPsutil):
        return CliError(str(error))
    return CliError(_defect(error))


def _defect(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""  # noqa: PTH119
    text = " ".join(str(error).split())[:300]
    return (
        f"internal error: {type(error).__name__}{': ' if text else ''}{text}{place}. This is a defect of rollbridge; "
        f"run it again with {DEBUG_VARIABLE}=1 for the details to report."
    )


def details(data: object) -> list[str]:
    """Return the lines below an error's sentence: what a failed process printed last."""
    if not isinstance(data, dict) or not isinstance(data.get("lines"), list | tuple) or not data["lines"]:
        return []
    process = data.get("process")
    return [
        f"last output of {process}:" if process else "last output:",
        *(f"  {visible(str(line))}" for line in data["lines"]),
    ]


def visible(text: str) -> str:
    """Return ``text`` with nothing in it that could act on a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\t" else "?" for one in text)
