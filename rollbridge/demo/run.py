"""The frame around the demo's story: signals, the temporary directory, the report, and leaving nothing behind."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import random
import secrets
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from rollbridge.demo.product import CommandFailed, Product, read_log_tail
from rollbridge.demo.report import Report, to_json, to_text
from rollbridge.demo.screen import Screen, silence, terminal_width
from rollbridge.demo.stage import StageFailed, choose_ports, make_directory, set_up
from rollbridge.demo.story import StepFailed, Story

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """``self_command`` runs this program again; with ``is_kept`` the directory stays."""

    self_command: Sequence[str]
    environ: Mapping[str, str]
    is_json: bool
    is_kept: bool


def run_demo(options: DemoOptions, output: TextIO, errors: TextIO) -> int:
    """Run the demo; the table goes to ``output``, what happens on the way to ``errors``. Returns the exit code.

    0: nothing failed. 1: something did. 128 + n: ended by signal n. Nothing is left behind in any case.
    """
    return asyncio.run(Demo(options, output, errors).run())


class Demo:
    def __init__(self, options: DemoOptions, output: TextIO, errors: TextIO) -> None:
        self._options = options
        self._output = output
        self._screen = Screen(
            errors,
            width=terminal_width(errors, options.environ),
            clock=time.monotonic,
            on_closed=lambda: self._interrupt(signal.SIGPIPE),
        )
        self._signum: int | None = None
        self._interruption = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for signum in SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup means it
                loop.add_signal_handler(signum, self._interrupt, signum)
        directory = make_directory()
        product = Product(
            self._options.self_command, directory / "rollbridge.toml", secrets.token_hex(8), self._options.environ
        )
        report: Report | None = None
        problems: list[str] = []
        is_shut_down = False
        try:
            command, chance = self._options.self_command, random.Random()
            stage = set_up(directory, command, chance)
            self._screen.step(f"everything of this demo is in {directory}")
            choose_again = functools.partial(choose_ports, directory, command, chance)
            story = Story(stage, product, self._screen, chance, choose_again)
            problems += await self._play(story)
            report, is_shut_down = story.report(problems), story.is_shut_down
        except (StageFailed, OSError) as error:
            problems.append(str(error))
        finally:
            left = await self._leave_nothing_behind(product, directory, is_shut_down=is_shut_down)
        if self._signum is not None:
            return 128 + self._signum
        return self._conclude(report, problems, left)

    def _interrupt(self, signum: int) -> None:
        """The first signal ends the demo in order; the second leaves out the order."""
        if self._interruption.is_set():
            self._hurry.set()
            return
        self._signum = signum
        self._interruption.set()

    async def _play(self, story: Story) -> list[str]:
        """Play until the end or an interruption; returns what went wrong with the steps."""
        playing = asyncio.create_task(story.play())
        interrupted = asyncio.create_task(self._interruption.wait())
        await asyncio.wait({playing, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        interrupted.cancel()
        playing.cancel()
        await asyncio.wait({playing})
        await story.end_traffic()
        if playing.cancelled():
            self._screen.step("interrupted: shutting everything down")
            return []
        error = playing.exception()
        if error is None:
            return []
        if not isinstance(error, (StepFailed, CommandFailed, StageFailed)):
            raise error
        self._screen.step(f"FAILED: {error}")
        self._screen.step("the last lines of the daemon's log:")
        for line in read_log_tail(story.stage.log_path) or ["(there is none)"]:
            self._screen.detail(line)
        return [str(error)]

    async def _leave_nothing_behind(self, product: Product, directory: Path, *, is_shut_down: bool) -> list[str]:
        """Stop what still runs and remove the directory; returns what went wrong with that."""
        if not is_shut_down:
            is_shut_down = await product.shut_down(self._hurry)
        killed = product.kill_processes()
        await product.reap()
        left = []
        if is_shut_down:
            left += [f"pid {pid} was still there after the shutdown: {command}" for pid, command in killed.items()]
        if self._options.is_kept:
            self._screen.step(f"kept {directory}")
        else:
            try:
                shutil.rmtree(directory)
            except OSError as error:
                left.append(f"{directory} could not be removed: {error}. Remove it by hand.")
        for problem in left:
            self._screen.step(problem)
        self._screen.close()
        return left

    def _conclude(self, report: Report | None, problems: list[str], left: list[str]) -> int:
        result: dict[str, object]
        if report is None:
            result, text = {"status": "error", "problems": [*problems, *left]}, "\n".join([*problems, *left])
        else:
            report = dataclasses.replace(report, problems=(*report.problems, *left))
            result, text = to_json(report), "\n" + to_text(report)
        try:
            self._output.write((json.dumps(result) if self._options.is_json else text) + "\n")
            self._output.flush()
        except BrokenPipeError:
            silence(self._output)
            return 128 + signal.SIGPIPE
        return 1 if report is None or report.problems else 0
