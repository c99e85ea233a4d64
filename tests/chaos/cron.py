"""Cron, which looks after the daemon: ``recover --heal`` every few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from tests.chaos.attribution import Kill, Span, judge_command
from tests.chaos.stage import Stage

CRON_SECONDS = 3.0
COMMAND_SECONDS = 240.0
# So long after a kill something may not be as it was: healing that was killed itself holds back.
DAEMON_BACK_SECONDS = 120.0


class Cron:
    """A thread from ``begin`` to ``end``; ``kills`` is the list of the run's, which grows."""

    def __init__(
        self, stage: Stage, kills: Sequence[Kill], say: Callable[[str], None], report: Callable[[str], None]
    ) -> None:
        self.stage, self.kills, self.say, self.report = stage, kills, say, report
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name="cron", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(COMMAND_SECONDS)

    def _guarded(self) -> None:
        try:
            while not self._is_over.wait(CRON_SECONDS):
                self._look()
        except Exception as error:  # without it nothing would come back
            self.report(f"cron broke: {type(error).__name__}: {error}")

    def _look(self) -> None:
        """Heal; where that holds back, because a start of it was killed, an operator starts the daemon."""
        code = self._run("recover", "--heal", "--quiet")
        if code == 1 and self.stage.daemon_digest() is None:
            self.say("healing holds back, so the operator runs ensure-daemon")
            self._run("ensure-daemon")

    def _run(self, *arguments: str) -> int:
        began_at = time.monotonic()
        command = self.stage.spawn(*arguments)
        result = command.finish(COMMAND_SECONDS)
        self.stage.commands.remove(command)
        output = result.stdout + result.stderr
        if output.strip():
            self.say(f"cron: {arguments[0]} ended with {result.code}: {output.strip()[:300]}")
        span = Span("cron", began_at - DAEMON_BACK_SECONDS, time.monotonic())
        if wrong := judge_command(span, result.code, output, self.kills, fails=False):
            self.report(f"{wrong}: {result}")
        return result.code
