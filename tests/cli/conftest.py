from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import FakeDaemon, Run, daemon_at, runner


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "rollbridge.toml"
    path.write_text(
        f'application = "shop"\nruntime_dir = "{tmp_path}/run"\n'
        f'[control]\npath = "{tmp_path}/c.sock"\n'
        '[processes.web]\npolicy = "proxied"\ncommand = "true"\nport = { from = 18182, to = 18189 }\n'
    )
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], config: Path) -> Run:
    return runner(capsys, config)


@pytest.fixture
def daemon(tmp_path: Path, config: Path) -> Iterator[FakeDaemon]:
    with daemon_at(tmp_path / "c.sock") as daemon:
        yield daemon
