"""Reading a state file without touching it, and what lies in memory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from rollbridge.process.marked import output_in
from rollbridge.takeover.survey import is_in_memory, read_state


def test_a_state_file_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert not read_state(str(path)).is_there
    path.write_bytes(b'{"format": 1, "intent": "down"}')
    assert read_state(str(path)).recorded.intent.value == "down"
    path.write_bytes(b'{"format": 99}')
    newer = read_state(str(path))
    assert newer.is_newer and "format 99" in newer.complaint
    for damage in (b"", b"{", b"\xff"):
        path.write_bytes(damage)
        assert "cannot be used" in read_state(str(path)).complaint
        assert path.read_bytes() == damage
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_a_state_file_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    known = read_state(str(tmp_path))
    assert known.is_there and "cannot be read" in known.complaint


def test_what_lies_in_memory_is_known() -> None:
    mounts = Path("/proc/self/mounts").read_text()
    in_memory = [line.split()[1] for line in mounts.splitlines() if line.split()[2] == "tmpfs"]
    for point in in_memory[:1]:
        assert is_in_memory(point) and is_in_memory(f"{point}/below/it")
    assert not is_in_memory("/proc")


def test_who_writes_into_a_directory_is_known_also_when_the_file_is_deleted(tmp_path: Path) -> None:
    with (tmp_path / "web.out").open("wb") as output, subprocess.Popen(["sleep", "1000"], stdout=output) as process:
        assert output_in(process.pid, f"{tmp_path}/") == "web"
        (tmp_path / "web.out").unlink()
        assert output_in(process.pid, f"{tmp_path}/") == "web"
        assert output_in(process.pid, f"{tmp_path}/elsewhere/") == ""
        process.kill()
    assert output_in(process.pid, f"{tmp_path}/") == ""
    assert os.path.isdir(tmp_path)  # noqa: PTH112
