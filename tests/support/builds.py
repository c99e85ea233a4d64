"""Other versions of the single file: built from changed sources, or with an entry of the archive replaced."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
BUILD_SECONDS = 300.0
_SHEBANG = b"#!/usr/bin/env python3\n"


def build_version(version: str, directory: Path) -> Path:
    """Build the checkout with another version number, as build_zipapp.py builds it."""
    sources = directory / f"sources-{version}"
    shutil.copytree(CHECKOUT / "rollbridge", sources / "rollbridge", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("build_zipapp.py", "requirements.lock", "LICENSE"):
        shutil.copyfile(CHECKOUT / name, sources / name)
    wheels = CHECKOUT / "build" / "wheels"
    if wheels.is_dir():
        shutil.copytree(wheels, sources / "build" / "wheels")
    init = sources / "rollbridge" / "__init__.py"
    text = init.read_text()
    quoted = text.partition("__version__ = ")[2].splitlines()[0]
    init.write_text(text.replace(quoted, f'"{version}"'))
    target = directory / f"rollbridge-{version}.pyz"
    subprocess.run(
        [sys.executable, str(sources / "build_zipapp.py"), "--output", str(target)], check=True, timeout=BUILD_SECONDS
    )
    return target


def changed(pyz: Path, target: Path, entries: Mapping[str, str]) -> Path:
    """Copy ``pyz`` to ``target`` with the text of some entries replaced, or added."""
    with zipfile.ZipFile(pyz) as source, target.open("wb") as file:
        file.write(_SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
            for name in source.namelist():
                if name not in entries:
                    written.writestr(name, source.read(name))
            for name, text in entries.items():
                written.writestr(name, text)
    target.chmod(0o755)
    return target


def source_of(pyz: Path, name: str) -> str:
    """Return the text of an entry."""
    with zipfile.ZipFile(pyz) as archive:
        return archive.read(name).decode()
