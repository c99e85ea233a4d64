#!/usr/bin/env python3
"""Builds dist/rollbridge.pyz: the package and its dependencies as one executable file.

    python3 build_zipapp.py [--output PATH]

The same sources and dependencies give the same bytes, whoever builds, wherever and whenever: entries are sorted and
carry a fixed time and fixed permissions. (Only zlib may differ: another implementation of it compresses differently,
which changes the bytes of the file but not what is in it.)

The dependencies are the wheels pinned by hash in requirements.lock. pip fetches them, nothing is compiled, and they
are kept in build/wheels for the next time, where each is checked against its hash before it is used.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parent
LOCK: Final = CHECKOUT / "requirements.lock"
WHEELS: Final = CHECKOUT / "build" / "wheels"

SHEBANG: Final = b"#!/usr/bin/env python3\n"
SIZE_LIMIT_BYTES: Final = 3 * 1024 * 1024 // 2  # a file one copies around without thinking about it
EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip file can tell
OLDEST_PYTHON: Final = "311"

# The names under which rollbridge/native.py looks for a platform, and the tags pip knows it by.
PLATFORMS: Final[Mapping[str, str]] = {
    "x86_64-glibc": "manylinux2014_x86_64",
    "aarch64-glibc": "manylinux2014_aarch64",
    "x86_64-musl": "musllinux_1_2_x86_64",
    "aarch64-musl": "musllinux_1_2_aarch64",
}
BUNDLE: Final = "bundled"

# What of psutil Linux needs: no other system's modules.
PSUTIL_MODULES: Final = ("__init__.py", "_common.py", "_ntuples.py", "_pslinux.py", "_psposix.py")
PSUTIL_LIBRARY: Final = "_psutil_linux.abi3.so"
TOMLI_W_MODULES: Final = ("__init__.py", "_writer.py")

# The file's own path is the first on sys.path. It is made absolute and free of links before anything is imported
# through it: what is imported later must come from this very file after a chdir, and after a link to it moved on.
ENTRY: Final = b"""\
import os
import sys

sys.path[0] = os.path.realpath(sys.path[0])

from rollbridge.__main__ import run

run()
"""
# Read by every command, and by Pythons that are told that they are too old: not compressed, so that neither the time
# nor the presence of zlib is asked for.
STORED: Final = frozenset({"__main__.py", "rollbridge/__init__.py", "rollbridge/__main__.py"})


class BuildFailed(Exception):
    """The file cannot be built; the message says why and what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Build rollbridge.pyz.")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "dist" / "rollbridge.pyz", metavar="PATH")
    output: Path = parser.parse_args().output
    try:
        entries = {**own_entries(), **dependency_entries(fetch_wheels(read_pins(LOCK.read_text())))}
        content = archive(entries)
        if len(content) > SIZE_LIMIT_BYTES:
            raise BuildFailed(f"the file would be {len(content):,} bytes, more than {SIZE_LIMIT_BYTES:,}.")
        write_executable(output, content)
    except BuildFailed as error:
        print(f"build_zipapp.py: {error}", file=sys.stderr)
        return 1
    shown = output.relative_to(Path.cwd()) if output.is_relative_to(Path.cwd()) else output
    print(f"{shown}  {len(content):,} bytes  sha256 {hashlib.sha256(content).hexdigest()}")
    return 0


def own_entries() -> dict[str, bytes]:
    """Return the package's files by their names in the archive."""
    entries = {"__main__.py": ENTRY, "LICENSE": (CHECKOUT / "LICENSE").read_bytes()}
    for path in (CHECKOUT / "rollbridge").rglob("*"):
        name = path.relative_to(CHECKOUT)
        is_hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        if path.is_file() and not is_hidden and path.suffix != ".pyc":
            entries[name.as_posix()] = path.read_bytes()
    return entries


def dependency_entries(wheels: Mapping[str, Mapping[str, Path]]) -> dict[str, bytes]:
    """Return what the archive takes from the wheels (by platform and package): modules, libraries, licences."""
    entries = {}
    for platform, packages in wheels.items():
        with zipfile.ZipFile(packages["psutil"]) as psutil:
            entries[f"{BUNDLE}/{platform}/{PSUTIL_LIBRARY}"] = psutil.read(f"psutil/{PSUTIL_LIBRARY}")
            for module in PSUTIL_MODULES:
                name = f"{BUNDLE}/psutil/{module}"
                if entries.setdefault(name, psutil.read(f"psutil/{module}")) != psutil.read(f"psutil/{module}"):
                    raise BuildFailed(f"psutil/{module} is not the same for every platform; one copy will not do.")
            entries[f"{BUNDLE}/psutil/LICENSE"] = licence(psutil)
    with zipfile.ZipFile(next(iter(wheels.values()))["tomli_w"]) as tomli_w:
        entries.update({f"tomli_w/{module}": tomli_w.read(f"tomli_w/{module}") for module in TOMLI_W_MODULES})
        entries["tomli_w/LICENSE"] = licence(tomli_w)
    return entries


def licence(wheel: zipfile.ZipFile) -> bytes:
    """Return the licence text of ``wheel``; without one it may not be passed on."""
    for name in wheel.namelist():
        if ".dist-info/" in name and name.rpartition("/")[2].startswith("LICENSE"):
            return wheel.read(name)
    raise BuildFailed(f"{wheel.filename} has no licence in it.")


def archive(entries: Mapping[str, bytes]) -> bytes:
    """Return the executable zip file with ``entries``."""
    with tempfile.TemporaryFile() as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w") as target:
            for name in sorted(entries):
                info = zipfile.ZipInfo(name, EPOCH)
                info.create_system = 3  # Unix, which the permissions are those of
                info.external_attr = 0o100644 << 16
                info.compress_type = zipfile.ZIP_STORED if name in STORED else zipfile.ZIP_DEFLATED
                target.writestr(info, entries[name], compresslevel=9)
        file.seek(0)
        return file.read()


def write_executable(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` at once, so that nobody runs half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.chmod(0o755)
    temporary.replace(path)


def read_pins(lock: str) -> dict[str, frozenset[str]]:
    """Return the sha256 digests allowed for each package of a lock file, by its name in wheel file names."""
    pins: dict[str, frozenset[str]] = {}
    name = ""
    for line in lock.splitlines():
        if requirement := re.match(r"([A-Za-z0-9._-]+)==", line):
            name = re.sub(r"[-_.]+", "_", requirement[1]).lower()
        pins[name] = pins.get(name, frozenset()) | set(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return {name: digests for name, digests in pins.items() if name}


def fetch_wheels(pins: Mapping[str, frozenset[str]]) -> dict[str, dict[str, Path]]:
    """Return the pinned wheel of every package for every platform, fetched if it is not at hand yet."""
    wheels = {platform: find_wheels(WHEELS / platform, pins) for platform in PLATFORMS}
    missing = [platform for platform, found in wheels.items() if found.keys() != pins.keys()]
    if missing:
        with tempfile.TemporaryDirectory(prefix="rollbridge-pip-") as scratch:
            python = python_with_pip(Path(scratch))
            for platform in missing:
                download(python, platform)
                wheels[platform] = find_wheels(WHEELS / platform, pins)
                if lacking := pins.keys() - wheels[platform].keys():
                    raise BuildFailed(f"pip fetched no pinned wheel of {', '.join(sorted(lacking))} for {platform}.")
    return wheels


def find_wheels(directory: Path, pins: Mapping[str, frozenset[str]]) -> dict[str, Path]:
    """Return the wheels in ``directory`` that have one of the pinned digests, by package; others are passed over."""
    found = {}
    for path in sorted(directory.glob("*.whl")):
        name = path.name.partition("-")[0].lower()
        if hashlib.sha256(path.read_bytes()).hexdigest() in pins.get(name, frozenset()):
            found[name] = path
    return found


def download(python: str, platform: str) -> None:
    """Fetch the pinned wheels for ``platform`` with pip; whatever is configured for pip on this machine applies."""
    tags = ["--only-binary=:all:", "--no-deps", "--require-hashes", f"--platform={PLATFORMS[platform]}"]
    tags += [f"--python-version={OLDEST_PYTHON}", "--implementation=cp", "--abi=abi3", "--abi=none"]
    command = [python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *tags]
    print(f"fetching dependencies for {platform}", file=sys.stderr)
    result = subprocess.run(
        [*command, f"--dest={WHEELS / platform}", f"--requirement={LOCK}"],
        env={**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if result.returncode:
        raise BuildFailed("pip could not fetch the dependencies; what it says is above.")


def python_with_pip(scratch: Path) -> str:
    """Return a Python that has pip: this one, or that of an environment made for the purpose in ``scratch``."""
    for python in pythons(scratch):
        if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
            return python
    raise BuildFailed(
        f"fetching the dependencies takes pip, and {sys.executable} has neither pip nor a working venv module. "
        "Install one (on Debian: apt install python3-venv), and run this again."
    )


def pythons(scratch: Path) -> Iterator[str]:
    if importlib.util.find_spec("pip"):
        yield sys.executable
    if importlib.util.find_spec("venv"):
        made = subprocess.run([sys.executable, "-m", "venv", str(scratch / "venv")], capture_output=True, check=False)
        if made.returncode == 0:
            yield str(scratch / "venv" / "bin" / "python")


if __name__ == "__main__":
    sys.exit(main())
