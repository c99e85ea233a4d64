"""Loading the compiled part of psutil: which platform this is, and the files that leave nothing behind."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rollbridge import native

GLIBC_MAP = "7f00-7f01 r-xp 00000000 fe:00 1 /usr/lib/x86_64-linux-gnu/libc.so.6\n"
MUSL_MAP = "7f00-7f01 r-xp 00000000 fe:00 1 /lib/ld-musl-aarch64.so.1\n"


@pytest.mark.parametrize(
    ("gnu_version", "memory_map", "libc"),
    [
        ("glibc 2.36", GLIBC_MAP, "glibc"),
        ("glibc 2.36", "", "glibc"),
        (None, MUSL_MAP, "musl"),
        ("", MUSL_MAP, "musl"),
        (None, GLIBC_MAP, None),
        (None, "", None),
    ],
)
def test_the_c_library_is_told_by_what_it_says_and_what_is_mapped(
    gnu_version: str | None, memory_map: str, libc: str | None
) -> None:
    assert native.libc_of(gnu_version, memory_map) == libc


def test_an_interpreter_without_the_stable_abi_has_no_bundled_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "EXTENSION_SUFFIXES", [".cpython-314t-x86_64-linux-gnu.so", ".so"])
    assert native.this_platform() is None


def test_an_interpreter_of_32_bits_has_no_bundled_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.maxsize", 2**31 - 1)
    assert native.this_platform() is None


def test_a_memory_file_has_the_content_and_no_name() -> None:
    (descriptor,) = native.memory_files(b"content")
    try:
        assert os.pread(descriptor, 100, 0) == b"content"
        assert os.fstat(descriptor).st_nlink == 0
    finally:
        os.close(descriptor)


def test_a_kernel_that_wants_memory_files_sealed_gets_them_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    create = os.memfd_create

    def strict(name: str, flags: int) -> int:
        if not flags & 0x8:
            raise PermissionError(13, "vm.memfd_noexec is 2")
        return create(name, flags & ~0x8)

    monkeypatch.setattr(os, "memfd_create", strict)
    (descriptor,) = native.memory_files(b"content")
    os.close(descriptor)


def test_a_python_that_knows_no_memory_files_offers_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert list(native.memory_files(b"content")) == []


@pytest.mark.parametrize("has_unnamed_files", [True, False])
def test_temporary_files_are_private_unlinked_and_one_for_each_directory(
    has_unnamed_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = [tmp_path / "one", tmp_path / "missing", tmp_path / "two"]
    directories[0].mkdir()
    directories[2].mkdir()
    monkeypatch.setattr(native, "temporary_directories", lambda: [str(path) for path in directories])
    if not has_unnamed_files:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # opening a directory for writing fails
    seen = []
    for descriptor in native.unlinked_files(b"content"):
        status = os.fstat(descriptor)
        assert os.pread(descriptor, 100, 0) == b"content"
        assert (status.st_nlink, stat.S_IMODE(status.st_mode)) == (0, 0o600)
        seen.append(Path(f"/proc/self/fd/{descriptor}").readlink().parent)
        os.close(descriptor)
    assert seen == [directories[0], directories[2]]
    assert [path for directory in (directories[0], directories[2]) for path in directory.iterdir()] == []


def test_every_way_is_tried_before_loading_fails_and_no_descriptor_is_left() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    failure = native.load_extension(b"not a library")
    assert failure is not None
    assert "file too short" in failure or "invalid ELF header" in failure or "/proc/self/fd" in failure
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_temporary_directories_begin_with_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    assert native.temporary_directories() == ["/tmp", "/run/user/7", "/var/tmp", "/dev/shm", "/run"]
