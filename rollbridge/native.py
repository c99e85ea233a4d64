"""Loads the compiled part of the bundled psutil out of the single file, without leaving a file behind.

The library of this platform is read from the archive into an anonymous memory file and loaded from there. Where such
a file cannot be had or executed (seccomp, SELinux, ``vm.memfd_noexec``), an unlinked private temporary file takes its
place. Where neither works, or the platform is not one of the bundled, an installed psutil is used.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec, PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Final
from zipimport import ZipImportError, zipimporter

from rollbridge.bundle import MissingPsutil

# Where build_zipapp.py puts things inside the archive. Beside the archive's root, which is on sys.path, so that the
# bundled psutil is never found without its compiled part.
BUNDLE: Final = "bundled"
LIBRARY: Final = "_psutil_linux.abi3.so"
EXTENSION: Final = "psutil._psutil_linux"
BUNDLED_PLATFORMS: Final = ("x86_64-glibc", "aarch64-glibc", "x86_64-musl", "aarch64-musl")

_MFD_NOEXEC_SEAL: Final = 0x8  # Linux 6.3; vm.memfd_noexec=2 refuses memory files without it, and a library needs no
# more: loading it maps it, and never asks for the x bit

Opener = Callable[[bytes], Iterator[int]]


def find_psutil(archive: str, search_path: Sequence[str]) -> ModuleSpec:
    """Return the spec of the bundled psutil, its compiled part already loaded, or else of an installed one.

    Raises MissingPsutil when there is neither.
    """
    platform = this_platform()
    reason = f"does not carry it for {platform or describe_platform()}"
    if platform in BUNDLED_PLATFORMS and (library := read_library(archive, platform)) is not None:
        failure = load_extension(library)
        bundled = zipimporter(f"{archive}/{BUNDLE}").find_spec("psutil")
        if failure is None and bundled is not None:
            return bundled
        reason = f"could not load the one it carries ({failure})"
    installed = PathFinder.find_spec("psutil", [path for path in search_path if path != archive])
    if installed is None:
        raise MissingPsutil(
            f"psutil is missing: this file {reason}, and none is installed for {sys.executable}. "
            "Install it there: python3 -m pip install psutil, or the system's package python3-psutil."
        )
    return installed


def this_platform() -> str | None:
    """Return the name of the platform as the bundle has it, ``"x86_64-glibc"``; None for one it cannot have.

    A library for the stable ABI is no use to an interpreter that does not offer it (free-threaded, PyPy), nor is one
    for the kernel's machine to a 32-bit interpreter.
    """
    libc = libc_of(_confstr("CS_GNU_LIBC_VERSION"), _read_text("/proc/self/maps"))
    if libc is None or ".abi3.so" not in EXTENSION_SUFFIXES or sys.maxsize <= 2**32:
        return None
    return f"{os.uname().machine}-{libc}"


def libc_of(gnu_version: str | None, memory_map: str) -> str | None:
    """Return ``"glibc"`` or ``"musl"``: the C library this interpreter runs on; None when it is another.

    ``gnu_version`` is what confstr says (``"glibc 2.36"``; musl says nothing), ``memory_map`` is /proc/self/maps.
    """
    if gnu_version is not None and gnu_version.startswith("glibc"):
        return "glibc"
    # musl's dynamic linker and C library are one file: ld-musl-x86_64.so.1.
    return "musl" if "/ld-musl-" in memory_map or "/libc.musl-" in memory_map else None


def describe_platform() -> str:
    """Return words for a platform that has no name in the bundle."""
    return f"{os.uname().machine} with {sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"


def read_library(archive: str, platform: str) -> bytes | None:
    """Return the bundled library of ``platform``; None when the archive has none."""
    try:
        return zipimporter(archive).get_data(f"{archive}/{BUNDLE}/{platform}/{LIBRARY}")
    except (OSError, ZipImportError):
        return None


def load_extension(library: bytes, openers: Iterable[Opener] | None = None) -> str | None:
    """Load ``library`` as ``psutil._psutil_linux`` from the first file that can be executed.

    Returns None when it is loaded, else why the last attempt failed.
    """
    failure = "no file to load it from"
    for opener in openers if openers is not None else (memory_files, unlinked_files):
        for descriptor in opener(library):
            try:
                _load_from(f"/proc/self/fd/{descriptor}")
            except ImportError as error:
                failure = str(error)
            else:
                return None
            finally:
                os.close(descriptor)  # the mapping holds the file
    return failure


def _load_from(path: str) -> None:
    loader = ExtensionFileLoader(EXTENSION, path)
    spec = spec_from_file_location(EXTENSION, path, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[EXTENSION] = module


def memory_files(content: bytes) -> Iterator[int]:
    """Yield at most one descriptor of an anonymous memory file with ``content``."""
    for flags in (0x1, 0x1 | _MFD_NOEXEC_SEAL):  # MFD_CLOEXEC, by number: Python has the name only if its libc has
        try:
            descriptor = os.memfd_create("rollbridge-psutil", flags)
        except (OSError, AttributeError):  # AttributeError: Python built against a C library that lacks it
            continue
        if _is_written(descriptor, content):
            yield descriptor
        return


def unlinked_files(content: bytes) -> Iterator[int]:
    """Yield descriptors of unlinked files with ``content``, one for each directory that takes one.

    There is more than one to try since /tmp is often mounted noexec where memory files are forbidden.
    """
    for directory in temporary_directories():
        try:
            descriptor = _open_unlinked(directory)
        except OSError:
            continue
        if _is_written(descriptor, content):
            yield descriptor


def temporary_directories() -> list[str]:
    """Return where a temporary file may go, best first, without repetition."""
    named = [os.environ.get(name, "") for name in ("TMPDIR", "XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY")]
    return list(dict.fromkeys(path for path in (*named, "/tmp", "/var/tmp", "/dev/shm", "/run") if path))


def _open_unlinked(directory: str) -> int:
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:  # a file system without O_TMPFILE
        descriptor, path = tempfile.mkstemp(prefix="rollbridge-", dir=directory)
        Path(path).unlink()
        return descriptor


def _is_written(descriptor: int, content: bytes) -> bool:
    """Write ``content``; close the descriptor and return False when there is no room for it."""
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
    except OSError:
        os.close(descriptor)
        return False
    return True


def _confstr(name: str) -> str | None:
    try:
        return os.confstr(name)
    except (ValueError, OSError):
        return None


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
