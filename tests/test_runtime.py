"""What code runs, how it is run again, and the private copy that a daemon runs from."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest

from rollbridge import __version__, runtime

CONTENT = b"#!/usr/bin/env python3\nPK"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME = f"rollbridge-{DIGEST[:16]}.pyz"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A single file that this process pretends to run from."""
    path = tmp_path / "rollbridge.pyz"
    path.write_bytes(CONTENT)
    monkeypatch.setattr(runtime, "running_archive", lambda: str(path))
    return path


@pytest.fixture
def runtime_dir(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o711)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_single_file_is_known_by_its_digest(archive: Path) -> None:
    info = runtime.runtime_info()
    assert info == runtime.RuntimeInfo(__version__, f"sha256:{DIGEST}", str(archive), is_zipapp=True)


def test_an_installed_package_is_known_by_its_sources() -> None:
    info = runtime.runtime_info()
    assert info.digest.startswith("sha256:")
    assert Path(info.path, "runtime.py").exists()
    assert not info.is_zipapp
    assert runtime.runtime_info() == info


def test_self_command_runs_the_same_code_from_anywhere() -> None:
    result = subprocess.run([*runtime.self_command(), "--version"], cwd="/", env={}, capture_output=True, check=True)
    assert result.stdout.decode() == f"rollbridge {__version__}\n"


def test_self_command_of_the_single_file_names_it(archive: Path) -> None:
    assert runtime.self_command()[1:] == ["-I", str(archive)]


def test_an_installed_package_runs_in_place(runtime_dir: Path) -> None:
    assert runtime.private_copy(str(runtime_dir)) == ""
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_the_copy_is_named_by_its_content_and_only_ours(archive: Path, runtime_dir: Path, umask: int) -> None:
    previous = os.umask(umask & 0o077)
    try:
        copy = Path(runtime.private_copy(str(runtime_dir)))
    finally:
        os.umask(previous)
    assert copy == runtime_dir / "code" / NAME
    assert copy.read_bytes() == CONTENT
    assert (mode(copy), mode(copy.parent)) == (0o500, 0o700)
    assert [path.name for path in copy.parent.iterdir()] == [NAME]


def test_a_copy_that_is_intact_is_used_as_it_is(archive: Path, runtime_dir: Path) -> None:
    first = Path(runtime.private_copy(str(runtime_dir))).stat()
    second = Path(runtime.private_copy(str(runtime_dir))).stat()
    assert (first.st_ino, first.st_mtime_ns) == (second.st_ino, second.st_mtime_ns)


def test_another_version_gets_a_copy_of_its_own(archive: Path, runtime_dir: Path) -> None:
    old = Path(runtime.private_copy(str(runtime_dir)))
    archive.write_bytes(CONTENT + b"2")
    new = Path(runtime.private_copy(str(runtime_dir)))
    assert old != new
    assert old.read_bytes() == CONTENT


@pytest.mark.parametrize("damage", ["changed", "truncated", "writable", "symlink", "fifo"])
def test_a_copy_that_is_not_what_its_name_says_is_replaced(archive: Path, runtime_dir: Path, damage: str) -> None:
    copy = Path(runtime.private_copy(str(runtime_dir)))
    copy.unlink()
    match damage:
        case "changed":
            copy.write_bytes(CONTENT[:-1] + b"!")
        case "truncated":
            copy.write_bytes(b"")
        case "writable":
            copy.write_bytes(CONTENT)
            copy.chmod(0o777)
        case "symlink":
            copy.symlink_to(archive)
        case _:
            os.mkfifo(copy)
    assert runtime.private_copy(str(runtime_dir)) == str(copy)
    assert stat.S_ISREG(copy.lstat().st_mode)
    assert (copy.read_bytes(), mode(copy)) == (CONTENT, 0o500)


def test_copies_are_not_kept_in_a_directory_that_others_can_write(archive: Path, runtime_dir: Path) -> None:
    (runtime_dir / "code").mkdir()
    (runtime_dir / "code").chmod(0o770)
    with pytest.raises(runtime.UnsafeDirectory, match="can be written by others"):
        runtime.private_copy(str(runtime_dir))


def test_copies_are_not_kept_behind_a_link(archive: Path, runtime_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (runtime_dir / "code").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(runtime.UnsafeDirectory, match="is not a directory"):
        runtime.private_copy(str(runtime_dir))
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away takes root")
def test_copies_are_not_kept_in_a_directory_of_somebody_else(archive: Path, runtime_dir: Path) -> None:
    (runtime_dir / "code").mkdir(mode=0o700)
    os.chown(runtime_dir / "code", 65534, 65534)
    with pytest.raises(runtime.UnsafeDirectory, match="belongs to uid 65534"):
        runtime.private_copy(str(runtime_dir))


def test_a_copy_that_cannot_be_written_leaves_nothing(
    archive: Path, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        runtime.private_copy(str(runtime_dir))
    assert list((runtime_dir / "code").iterdir()) == []


def test_pruning_spares_what_is_kept_and_what_is_being_written(archive: Path, runtime_dir: Path) -> None:
    copy = Path(runtime.private_copy(str(runtime_dir)))
    code = copy.parent
    names = ["rollbridge-0000.pyz", f".{NAME}.{os.getpid()}", f".{NAME}.99999999", "not-ours.txt"]
    for name in names:
        (code / name).write_bytes(b"")
    assert runtime.prune_copies(str(runtime_dir), [str(copy)]) == [f".{NAME}.99999999", "rollbridge-0000.pyz"]
    assert sorted(path.name for path in code.iterdir()) == sorted([NAME, names[1], names[3]])


def test_pruning_where_nothing_was_copied_does_nothing(runtime_dir: Path) -> None:
    assert runtime.prune_copies(str(runtime_dir), []) == []
    assert list(runtime_dir.iterdir()) == []
