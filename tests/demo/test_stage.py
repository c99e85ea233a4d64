from __future__ import annotations

import random
import socket
import tomllib
from pathlib import Path

import pytest

from rollbridge.demo import stage as stage_module
from rollbridge.demo.stage import (
    MAX_DIRECTORY_BYTES,
    Stage,
    StageFailed,
    find_ports,
    is_free,
    make_directory,
    render_config,
    set_up,
)


def test_config_says_what_any_path_says(tmp_path: Path) -> None:
    odd = 'a "quoted" \\ ü \x7f {{port}} 100%'
    stage = Stage(tmp_path / odd, 9000, range(9001, 9009))
    config = tomllib.loads(render_config(stage, ["/usr/bin/python3", "-I", odd]))
    escaped = odd.replace("{{", "{{{{")
    web = config["processes"]["web"]
    assert web["command"] == [
        "/usr/bin/python3",
        "-I",
        escaped,
        "_demo-app",
        "--host",
        "127.0.0.1",
        "--port",
        "{{port}}",
    ]
    assert web["port"] == {"from": 9001, "to": 9008}
    assert config["processes"]["worker"]["command"][-1].endswith(f"{escaped}/jobs")
    assert config["runtime_dir"].endswith(f"{escaped}/run")


def test_stage_has_all_that_the_story_needs(tmp_path: Path) -> None:
    stage = set_up(tmp_path, ["rollbridge"], random.Random(1))
    assert (stage.release_path("v3") / "release.json").read_text() == '{"is_broken": true}\n'
    assert (stage.jobs_directory / "queued").is_dir()
    assert stage.config_path.is_file()
    assert stage.port not in stage.web_ports


def test_directory_is_private_and_short_enough_for_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 80)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    directory = make_directory()
    try:
        assert len(str(directory)) <= MAX_DIRECTORY_BYTES
        assert directory.stat().st_mode & 0o777 == 0o700
    finally:
        directory.rmdir()


def test_found_ports_are_free_and_below_the_ephemeral_ones() -> None:
    first = find_ports(9, random.Random(2))
    assert all(is_free(port) for port in range(first, first + 9))
    assert first + 9 <= stage_module.read_ephemeral_port() or stage_module.read_ephemeral_port() < 20000


def test_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not is_free(listener.getsockname()[1])


def test_machine_without_ports_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "is_free", lambda port: False)
    with pytest.raises(StageFailed, match="found no 9 free ports"):
        find_ports(9, random.Random(3))
