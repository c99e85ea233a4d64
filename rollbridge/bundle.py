"""The psutil that rides inside the single file, offered to whatever imports psutil first.

Kept small, since every command of the single file imports it; the work is in rollbridge.native.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing for this would cost every command
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class MissingPsutil(ImportError):
    """There is no psutil that works on this platform; the message says what to install."""


class PsutilFinder:
    """Finds ``psutil`` for the single file ``archive``: its own where that works, else an installed one."""

    def __init__(self, archive: str) -> None:
        self.archive = archive

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer the import system; raise MissingPsutil when there is nothing to answer with."""
        if name != "psutil":
            return None
        from rollbridge.native import find_psutil

        return find_psutil(self.archive, sys.path)


def running_archive() -> str | None:
    """Return the absolute path of the single file this code runs from; None when it is installed as a package."""
    archive: str | None = getattr(__spec__.loader if __spec__ else None, "archive", None)
    return archive


def offer_bundled_psutil() -> None:
    """From the single file, let ``import psutil`` find the psutil inside it; an installed package imports its own.

    First in line: what an operator happens to have installed must not change what the single file does.
    """
    archive = running_archive()
    if archive is not None and not any(isinstance(finder, PsutilFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, PsutilFinder(archive))
