from __future__ import annotations

import os
from pathlib import Path

import pytest

from rollbridge.proxy.log_descriptor import log_path, reopen


def opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)


def test_the_path_of_a_log_is_found_and_of_what_is_no_log_is_not(tmp_path: Path) -> None:
    log, link = tmp_path / "log", tmp_path / "link"
    link.symlink_to(log)
    descriptor = opened(link)
    assert log_path(descriptor) == str(log)
    log.unlink()
    assert log_path(descriptor) is None
    os.close(descriptor)
    assert log_path(descriptor) is None
    for descriptor in (*os.pipe(), os.open(os.devnull, os.O_WRONLY)):
        assert log_path(descriptor) is None
        os.close(descriptor)


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_after_a_rotation_writing_goes_on_in_the_new_file(tmp_path: Path, is_made_anew: bool) -> None:
    log, old = tmp_path / "log", tmp_path / "log.1"
    descriptor = opened(log)
    os.write(descriptor, b"before\n")
    log.rename(old)
    os.write(descriptor, b"between\n")
    if is_made_anew:  # "create" of logrotate
        log.touch(0o600)
    assert reopen(descriptor, str(log))
    os.write(descriptor, b"after\n")
    assert old.read_bytes() == b"before\nbetween\n"
    assert log.read_bytes() == b"after\n"
    assert log.stat().st_mode & 0o777 == (0o600 if is_made_anew else 0o640)
    assert not reopen(descriptor, str(log))
    os.close(descriptor)


def test_nothing_is_changed_when_nothing_was_moved(tmp_path: Path) -> None:
    log = tmp_path / "log"
    descriptor = opened(log)
    assert not reopen(descriptor, str(log))
    os.close(descriptor)


@pytest.mark.parametrize("in_the_way", ["link", "directory", "fifo", "no directory"])
def test_what_cannot_be_opened_or_is_no_file_leaves_the_old_one(tmp_path: Path, in_the_way: str) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = folder / "log"
    descriptor = opened(log)
    log.rename(folder / "log.1")
    if in_the_way == "link":
        log.symlink_to(tmp_path / "elsewhere")
    elif in_the_way == "directory":
        log.mkdir()
    elif in_the_way == "fifo":
        os.mkfifo(log)
    else:
        folder.rename(tmp_path / "moved")
    before = os.fstat(descriptor)
    with pytest.raises(OSError):
        reopen(descriptor, str(log))
    assert os.fstat(descriptor) == before
    assert not (tmp_path / "elsewhere").exists()
    os.close(descriptor)
