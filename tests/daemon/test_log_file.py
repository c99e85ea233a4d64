from __future__ import annotations

import os
from pathlib import Path

from rollbridge.daemon.log_file import bound_file, rotate_log


def opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)


def test_a_log_that_reached_the_limit_is_moved_aside_and_writing_goes_on_in_a_new_one(tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"
    descriptor = opened(log)
    os.write(descriptor, b"old line\n")
    assert not rotate_log(descriptor, log, limit_bytes=10)
    assert rotate_log(descriptor, log, limit_bytes=9)
    os.write(descriptor, b"new line\n")
    assert log.read_bytes() == b"new line\n"
    assert (tmp_path / "daemon.log.1").read_bytes() == b"old line\n"
    assert log.stat().st_mode & 0o777 == 0o640
    os.close(descriptor)


def test_only_one_old_log_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"
    descriptor = opened(log)
    for number in range(5):
        os.write(descriptor, b"%d\n" % number)
        rotate_log(descriptor, log, limit_bytes=1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["daemon.log", "daemon.log.1"]
    assert (tmp_path / "daemon.log.1").read_bytes() == b"4\n"
    os.close(descriptor)


def test_a_log_elsewhere_a_link_and_one_that_was_rotated_by_another_are_left_alone(tmp_path: Path) -> None:
    log, elsewhere = tmp_path / "daemon.log", tmp_path / "elsewhere.log"
    descriptor = opened(elsewhere)
    os.write(descriptor, b"line\n")
    assert not rotate_log(descriptor, log, limit_bytes=1)
    log.write_bytes(b"another file\n")
    assert not rotate_log(descriptor, log, limit_bytes=1)
    log.unlink()
    log.symlink_to(elsewhere)
    assert not rotate_log(descriptor, log, limit_bytes=1)
    assert elsewhere.read_bytes() == b"line\n"
    os.close(descriptor)


def test_a_file_that_is_opened_anew_is_bounded_too(tmp_path: Path) -> None:
    log = tmp_path / "workers.log"
    bound_file(log, 1)
    log.write_bytes(b"xx")
    bound_file(log, 3)
    assert log.exists()
    bound_file(log, 2)
    assert not log.exists()
    assert (tmp_path / "workers.log.1").read_bytes() == b"xx"
