from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rollbridge.daemon.runtime_dir import RuntimeDirError, prepare_runtime_dir

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
STRANGER = 65534


def prepare(path: Path) -> None:
    prepare_runtime_dir(str(path))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_it_is_made_with_everything_above_it_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        prepare(tmp_path / "rollbridge" / "shop")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "rollbridge") == mode_of(tmp_path / "rollbridge" / "shop") == 0o711
    prepare(tmp_path / "rollbridge" / "shop")


def test_what_others_could_write_is_taken_from_them_and_a_stricter_mode_stays(tmp_path: Path) -> None:
    for before, after in ((0o777, 0o711), (0o770, 0o711), (0o700, 0o700), (0o755, 0o755)):
        tmp_path.chmod(before)
        prepare(tmp_path)
        assert mode_of(tmp_path) == after


def test_a_symbolic_link_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").write_text("")
    for name, why in (("link", "is a symbolic link"), ("dangling", "is a symbolic link"), ("file", "not a directory")):
        with pytest.raises(RuntimeDirError, match=why):
            prepare(tmp_path / name)
    with pytest.raises(RuntimeDirError):
        prepare(tmp_path / "file" / "shop")
    assert not (tmp_path / "nowhere").exists()


@needs_root
def test_somebody_elses_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop"
    path.mkdir()
    os.chown(path, STRANGER, -1)
    with pytest.raises(RuntimeDirError, match="belongs to user"):
        prepare(path)


@needs_root
@pytest.mark.parametrize("kind", ["directory", "link"])
def test_what_a_stranger_planted_in_a_public_directory_is_refused(tmp_path: Path, kind: str) -> None:
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o1777)
    planted = public / "rollbridge-0"
    if kind == "directory":
        planted.mkdir(0o777)
    else:
        (tmp_path / "theirs").mkdir()
        planted.symlink_to(tmp_path / "theirs")
    os.chown(planted, STRANGER, -1, follow_symlinks=False)
    with pytest.raises(RuntimeDirError, match="is not safe"):
        prepare(planted / "shop")


def test_a_public_directory_without_the_sticky_bit_is_refused(tmp_path: Path) -> None:
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o777)
    with pytest.raises(RuntimeDirError, match="every user may replace"):
        prepare(public / "shop")


@needs_root
def test_a_directory_that_cannot_be_made_says_for_whom(tmp_path: Path) -> None:
    os.seteuid(STRANGER)
    try:
        with pytest.raises(RuntimeDirError, match=r"cannot be made.*Permission denied"):
            prepare(Path("/run/rollbridge-of-nobody/shop"))
    finally:
        os.seteuid(0)
