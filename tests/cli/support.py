"""Runs commands in this process, against a daemon that is played by the test."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rollbridge.cli.main import main
from rollbridge.control.protocol import CommandError, Peer
from rollbridge.control.server import Progress
from tests.control.support import serving


class Outcome(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one object on stdout."""
        return json.loads(self.stdout)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.stdout.splitlines()]


Run = Callable[..., Outcome]


def runner(capsys: pytest.CaptureFixture[str], config: Path) -> Run:
    """Return a function that runs a command line for the application of ``config``."""

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        try:
            exit_code = main([arguments[0], "-c", str(config), *arguments[1:]])
        except SystemExit as error:
            exit_code = error.code if isinstance(error.code, int) else 1
        output = capsys.readouterr()
        return Outcome(exit_code, output.out, output.err)

    return run


class FakeDaemon:
    """Answers from a table; keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[dict[str, object]] = []
        self.answers: dict[str, Mapping[str, object] | CommandError] = {"ping": {"pid": 1, "application": "shop"}}
        self.progress: dict[str, list[dict[str, object]]] = {}

    async def __call__(self, request: dict[str, object], progress: Progress, peer: Peer) -> dict[str, object]:
        command = str(request["command"])
        if command != "ping":
            self.requests.append(request)
        for report in self.progress.get(command, []):
            progress(report)
        answer = self.answers.get(command, {})
        if isinstance(answer, CommandError):
            raise answer
        return {"status": "success", **answer}


@contextlib.contextmanager
def daemon_at(path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon()
    with serving(path, daemon):
        yield daemon
