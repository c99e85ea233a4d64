"""Two builds to upgrade between."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.chaos.stage import CHECKOUT
from tests.support.builds import changed, source_of


def build(target: Path) -> Path:
    """Build the single file from this checkout."""
    subprocess.run(
        [sys.executable, str(CHECKOUT / "build_zipapp.py"), "--output", str(target)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return target


def two_builds(directory: Path, first: Path | None, second: Path | None) -> tuple[Path, Path]:
    """Two files to upgrade between; what is not given is made, the second from the first as another version."""
    directory.mkdir(exist_ok=True)
    first = first or build(directory / "one.pyz")
    return first, second or another_build(first, directory / "two.pyz")


def another_build(pyz: Path, target: Path) -> Path:
    """The same program as another version."""
    name = "rollbridge/__init__.py"
    text = source_of(pyz, name)
    quoted = text.partition("__version__ = ")[2].splitlines()[0]
    return changed(pyz, target, {name: text.replace(quoted, '"9.9.9"')})
