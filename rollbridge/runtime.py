"""What code this is, how to run it again, and a copy of it that nobody replaces."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rollbridge import __version__
from rollbridge.bundle import running_archive

CODE_DIRECTORY: Final = "code"
COPY_MODE: Final = 0o500
_PREFIX: Final = "rollbridge-"
_SUFFIX: Final = ".pyz"
_NAME_DIGITS: Final = 16  # of the digest, in a copy's name; the whole digest is compared before a copy is used


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """The code that runs. Equal digests mean equal code."""

    version: str
    digest: str  # "sha256:" and 64 hexadecimal digits, of the file, or of every source of an installed package
    path: str  # of the single file, or of the package's directory
    is_zipapp: bool


class UnsafeDirectory(Exception):
    """Code is not run from a directory that somebody else can write to; the message says which and why."""


@dataclass(frozen=True, slots=True)
class LastingCommand:
    """Runs this code whatever becomes of the file it was started from; to be followed by arguments.

    ``copy`` is the private copy that it names, empty for an installed package, which runs in place.
    """

    argv: tuple[str, ...]
    copy: str


def self_command() -> list[str]:
    """Return the command that runs this very code again, to be followed by arguments."""
    archive = running_archive()
    target = archive if archive is not None else str(_package_directory() / "__main__.py")
    return command_for(sys.executable or str(Path("/proc/self/exe").readlink()), target)


def command_for(python: str, target: str) -> list[str]:
    """Return the command that runs the code at ``target``, to be followed by arguments.

    Isolated: the environment and the working directory have no say in which code that is. An installed package is
    named by its path, since ``-I -m`` would not find one that is installed for a user, or not installed at all.
    """
    return [python, "-I", target]


def lasting_command(runtime_dir: str) -> LastingCommand:
    """Return the command that runs this code from its private copy; raises as ``private_copy`` does."""
    command = self_command()
    copy = private_copy(runtime_dir)
    return LastingCommand((*command[:-1], copy) if copy else tuple(command), copy)


def runtime_info() -> RuntimeInfo:
    """Tell what code this is, from the files as they are now: ask before they may have been replaced.

    Raises OSError when they cannot be read.
    """
    archive = running_archive()
    if archive is not None:
        return RuntimeInfo(__version__, _digest(Path(archive).read_bytes()), archive, is_zipapp=True)
    return RuntimeInfo(__version__, _package_digest(), str(_package_directory()), is_zipapp=False)


def private_copy(runtime_dir: str) -> str:
    """Return the path of a verified copy of the single file in ``<runtime_dir>/code``, made if need be.

    The name is that of the content, so a copy is never changed, and a new version does not touch the old one's.
    An installed package runs in place: its answer is ``""``. ``runtime_dir`` must exist. Raises UnsafeDirectory when
    the directory of the copies is not ours alone, OSError when it cannot be written.
    """
    archive = running_archive()
    return "" if archive is None else copy_file(archive, runtime_dir)[0]


def copy_file(archive: str, runtime_dir: str) -> tuple[str, str]:
    """Return path and digest of a verified copy of the single file at ``archive``; as ``private_copy`` otherwise."""
    content = Path(archive).read_bytes()
    digest = _digest(content)
    name = f"{_PREFIX}{digest.removeprefix('sha256:')[:_NAME_DIGITS]}{_SUFFIX}"
    path = Path(runtime_dir, CODE_DIRECTORY)
    directory = _open_own_directory(path)
    try:
        if not _is_intact(directory, name, digest):
            _write_copy(directory, name, content)
    finally:
        os.close(directory)
    return str(path / name), digest


def restore_copy(path: str, descriptor: int) -> None:
    """Write the private copy at ``path`` again when it has been deleted, from ``descriptor``, open on it since before.

    Raises UnsafeDirectory and OSError as ``private_copy`` does.
    """
    if os.path.lexists(path):
        return
    content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    directory = _open_own_directory(Path(path).parent)
    try:
        _write_copy(directory, Path(path).name, content)
    finally:
        os.close(directory)


def prune_copies(runtime_dir: str, keep: Iterable[str]) -> list[str]:
    """Delete the private copies that are not among the paths ``keep``; return the names of the deleted.

    A copy that a process still runs from must be kept: its modules are read when they are first imported.
    """
    path = Path(runtime_dir, CODE_DIRECTORY)
    if not path.is_dir():
        return []
    directory = _open_own_directory(path)
    try:
        kept = {Path(copy).name for copy in keep}
        names = sorted(entry.name for entry in path.iterdir())
        unused = [name for name in names if name not in kept and _is_prunable(name)]
        for name in unused:
            os.unlink(name, dir_fd=directory)
        return unused
    finally:
        os.close(directory)


def _package_directory() -> Path:
    return Path(__file__).absolute().parent


def _digest(content: bytes) -> str:
    import hashlib  # loads OpenSSL, which most commands have no use for

    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _package_digest() -> str:
    """Digest names and contents of the package's sources, in an order that does not depend on the file system."""
    root = _package_directory()
    sources = sorted(root.rglob("*.py"))
    return _digest("\n".join(f"{path.relative_to(root)} {_digest(path.read_bytes())}" for path in sources).encode())


def _open_own_directory(path: Path) -> int:
    """Open the directory at ``path``, made if need be; raise UnsafeDirectory when others could plant code in it."""
    with contextlib.suppress(FileExistsError):  # whose it is, is checked below
        path.mkdir(mode=0o700)
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as error:  # a symbolic link too
        raise UnsafeDirectory(f"{path} is not a directory. Remove it.") from error
    status = os.fstat(directory)
    if status.st_uid != os.geteuid():
        os.close(directory)
        raise UnsafeDirectory(f"{path} belongs to uid {status.st_uid}, not to uid {os.geteuid()}. Remove it.")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        os.close(directory)
        raise UnsafeDirectory(f"{path} can be written by others. Remove it, or chmod it to 700 if you trust it.")
    return directory


def _is_intact(directory: int, name: str, digest: str) -> bool:
    """Tell whether the copy is there, ours alone to write, and what its name promises."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        is_ours = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return stat.S_ISREG(status.st_mode) and is_ours and _digest(file.read()) == digest


def _write_copy(directory: int, name: str, content: bytes) -> None:
    """Put ``content`` at ``name`` as a whole or not at all; a copy that is there already is replaced."""
    temporary = f".{name}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):  # is there only if a process of this pid died while it wrote
        os.unlink(temporary, dir_fd=directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, COPY_MODE, dir_fd=directory), "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), COPY_MODE)  # whatever the umask
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


def _is_prunable(name: str) -> bool:
    """A copy, or what is left of one whose writer died. A living writer's file is not."""
    if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
        return True
    writer = name.rpartition(".")[2]
    return name.startswith(f".{_PREFIX}") and writer.isdigit() and not Path(f"/proc/{writer}").exists()
