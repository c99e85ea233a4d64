from __future__ import annotations

import os
from pathlib import Path

import pytest

from rollbridge.daemon.pid_file import pid_file


def test_the_pid_is_there_while_the_block_runs_and_gone_after(tmp_path: Path) -> None:
    path = tmp_path / "daemon.pid"
    with pid_file(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        assert [entry.name for entry in tmp_path.iterdir()] == ["daemon.pid"]
    assert not path.exists()


def test_a_file_that_now_holds_another_pid_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "daemon.pid"
    with pid_file(str(path)):
        path.write_text("1\n")
    assert path.read_text() == "1\n"


def test_no_path_is_no_file(tmp_path: Path) -> None:
    with pid_file(None):
        assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), pid_file(str(tmp_path / "no" / "daemon.pid")):
        pass
