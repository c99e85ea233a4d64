"""The Pythons of this machine, so that what depends on the version is tried on each."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import pytest

NAMES: Final = ("python2", "python2.7", *(f"python3.{minor}" for minor in range(6, 15)), "python3")
NOBODY: Final = 65534


@cache
def interpreters() -> dict[tuple[int, int], str]:
    """Return an executable for each version found: on the PATH, of the system, of pyenv."""
    found: dict[tuple[int, int], str] = {}
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    candidates = [f"/usr/bin/{name}" for name in NAMES] + [shutil.which(name) for name in NAMES]
    candidates += sorted(str(path) for path in root.glob("*/bin/python"))
    for candidate in candidates:
        version = _version(candidate) if candidate else None
        if candidate and version:
            found.setdefault(version, candidate)
    return found


def supported() -> list[str]:
    return [path for version, path in sorted(interpreters().items()) if version >= (3, 11)]


def too_old() -> list[str]:
    return [path for version, path in sorted(interpreters().items()) if version < (3, 11)]


def for_everyone() -> str:
    """Return a supported interpreter that any user may run; skips the test when there is none, or we are not root."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root")
    for path in supported():
        try:
            subprocess.run([path, "-I", "-c", ""], check=True, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")
        except (OSError, subprocess.CalledProcessError):
            continue
        return path
    pytest.skip("no supported Python here can be run by an unprivileged user")


def _version(path: str) -> tuple[int, int] | None:
    if not Path(path).exists():
        return None
    code = "import sys; sys.stdout.write('%d %d' % sys.version_info[:2])"
    result = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)  # a pyenv shim may fail
    if result.returncode:
        return None
    major, minor = result.stdout.split()
    return int(major), int(minor)
