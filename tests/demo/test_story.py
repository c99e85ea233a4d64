from __future__ import annotations

import asyncio
import functools
import io
import json
import random
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from rollbridge.demo.jobs import JobCounts
from rollbridge.demo.product import CommandResult, Product
from rollbridge.demo.screen import Screen
from rollbridge.demo.stage import choose_ports, set_up
from rollbridge.demo.story import OTHER_PORTS, StepFailed, Story, find_job_problems


class FakeProduct(Product):
    """Answers every command with ``result``, and remembers the port that the config named then."""

    def __init__(self, config_path: Path, result: CommandResult) -> None:
        super().__init__([], config_path, "fake", {})
        self._result = result
        self._path = config_path
        self.ports: list[int] = []

    async def run(self, *arguments: str, on_line: Callable[[str], None] | None = None) -> CommandResult:
        self.ports.append(tomllib.loads(self._path.read_text())["proxy"]["port"])
        return self._result


def play(directory: Path, result: CommandResult) -> FakeProduct:
    """Play with a product that answers everything with ``result``."""
    chance = random.Random(5)
    stage = set_up(directory, ["rollbridge"], chance)
    product = FakeProduct(stage.config_path, result)
    screen = Screen(io.StringIO(), width=None, clock=time.monotonic, on_closed=lambda: None)
    choose_again = functools.partial(choose_ports, directory, ["rollbridge"], chance)

    async def run() -> None:
        story = Story(stage, product, screen, chance, choose_again)
        with pytest.raises(StepFailed) as failure:
            await story.play()
        await story.end_traffic()
        assert story.report([str(failure.value)]).problems == (str(failure.value),)
        assert "deploy v1" in str(failure.value)

    asyncio.run(run())
    return product


def test_other_ports_are_tried_when_somebody_has_taken_the_first(tmp_path: Path) -> None:
    product = play(tmp_path, CommandResult(4, "", ("rollbridge: port 1 is in use by pid 2",)))
    assert len(set(product.ports)) == 1 + OTHER_PORTS


def test_failed_first_deploy_is_not_tried_again(tmp_path: Path) -> None:
    assert len(play(tmp_path, CommandResult(1, "", ("rollbridge: no",))).ports) == 1


def test_deploy_that_activated_something_else_is_a_failure(tmp_path: Path) -> None:
    play(tmp_path, CommandResult(0, json.dumps({"active_release_id": "v0"}), ()))


def test_jobs_that_were_lost_or_ran_twice_are_problems() -> None:
    assert find_job_problems(JobCounts(queued=2, done=2, duplicated=0, lost=0)) == []
    assert len(find_job_problems(JobCounts(queued=2, done=1, duplicated=1, lost=1))) == 2
