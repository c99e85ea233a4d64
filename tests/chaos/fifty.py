"""Fifty times the same, under load: ``python -m tests.chaos.fifty kill|upgrade [--times 50]``.

``kill``: kill -9 of the daemon, then ``recover --heal``. ``upgrade``: from one build to the other and back.
No request fails, no process of the application is another than before (with ``kill`` no proxy worker either), no line
of output is lost. Prints the figures; exit 0: so it was, 1: the problems are listed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chaos.acts import Acts
from tests.chaos.builds import two_builds
from tests.chaos.census import APP_ROLES, DAEMON, WORKER, kill
from tests.chaos.lines import Continuity
from tests.chaos.run import judge_logs, what_is_left
from tests.chaos.stage import Stage
from tests.chaos.traffic import Traffic
from tests.support.application import python_command
from tests.support.waiting import wait_until

PRINTERS = ("cron", "broker")
REQUESTS_BETWEEN = 60
PATIENCE_SECONDS = 120.0


class Fifty:
    """One application, its load, and what went wrong. ``problems`` stays empty."""

    def __init__(self, pyz: Path | None, second_pyz: Path | None, say: Callable[[str], None]) -> None:
        self.say = say
        self.builds = (pyz, second_pyz)
        self.problems: list[str] = []
        self.outages: list[float] = []  # seconds without a daemon that answers
        self.stage = Stage((), "fifty")
        self.acts = Acts(self.stage, lambda text: None, self.problems.append)
        self.stage.command = python_command(self.acts.installed)
        self.traffic = Traffic(self.stage.port, self.stage.queue, 50)
        self.readings = {name: Continuity() for name in PRINTERS}

    def run(self, what: str, times: int) -> None:
        """Do it ``times`` times and judge; nothing is left behind."""
        act = {"kill": self._kill_and_heal, "upgrade": self._upgrade}[what]
        kept = (*APP_ROLES, WORKER) if what == "kill" else (*APP_ROLES, DAEMON)
        try:
            self.acts.begin(two_builds(self.stage.builds_dir, *self.builds))
            before = self._people(kept)
            with self.traffic:
                for number in range(times):
                    self._wait_for_requests(REQUESTS_BETWEEN)
                    self._read_output()
                    act()
                    self._read_output()
                    after = self._people(kept)
                    if after != before:
                        self.problems.append(f"round {number}: not the same processes: {before} became {after}")
                        before = after
                    self.say(f"round {number + 1}: {len(self.traffic.journal.failures)} failures so far")
                self._wait_for_requests(REQUESTS_BETWEEN)
                self._read_output()
            self.problems += [f"failed: {failure}" for failure in self.traffic.journal.failures]
            self.problems += self.traffic.journal.defects
            for name, continuity in self.readings.items():
                self.problems += [f"output of {name}: {problem}" for problem in continuity.problems]
            self.stage.run("shutdown", timeout=PATIENCE_SECONDS)
            self.problems += what_is_left(self.stage)
            self.problems += judge_logs(self.stage)
        finally:
            self.stage.close()
            self.stage.remove()
            self.stage.release_guard()

    def lines(self) -> list[str]:
        counts = self.traffic.journal.counts
        requests = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        outages = sorted(self.outages)
        median = outages[len(outages) // 2] if outages else 0.0
        return [
            f"{sum(counts.values())} requests ({requests}), {len(self.traffic.journal.failures)} failed; the slowest "
            f"took {self.traffic.journal.longest_seconds:.2f} s",
            f"{len(outages)} times without a daemon that answers, for {median:.2f} s (median)",
            f"{sum(one.lines for one in self.readings.values())} lines of output read without a gap",
            f"{len(self.problems)} problems",
            *(f"PROBLEM {problem}" for problem in self.problems[:20]),
        ]

    def _people(self, roles: Sequence[str]) -> list[str]:
        """Who lives of ``roles``, each with its start time."""
        return sorted(f"{seen.role} {seen.who}" for seen in self.stage.census() if seen.role in roles)

    def _wait_for_requests(self, number: int) -> None:
        goal = self.traffic.journal.total + number
        wait_until(lambda: self.traffic.journal.total >= goal, "more requests", timeout=PATIENCE_SECONDS)

    def _read_output(self) -> None:
        for name, continuity in self.readings.items():
            continuity.read(self.stage.logged(name, 10_000))

    def _kill_and_heal(self) -> None:
        (daemon,) = (seen for seen in self.stage.census() if seen.role == DAEMON)
        kill(daemon, self.stage.port)
        began = time.monotonic()
        self._wait_for_requests(10)  # served without a daemon
        said = self.stage.run("recover", "--heal", timeout=PATIENCE_SECONDS)
        try:
            self.stage.daemon_pid()
        except OSError as error:
            raise AssertionError(f"no daemon answers after recover --heal: {error}; it said {said}") from error
        self.outages.append(time.monotonic() - began)

    def _upgrade(self) -> None:
        digest = self.stage.request({"command": "ping"})["digest"]
        self.acts.install_other()
        began = time.monotonic()
        self.stage.run("upgrade", "--wait", timeout=PATIENCE_SECONDS)
        self.outages.append(time.monotonic() - began)
        if self.stage.request({"command": "ping"})["digest"] == digest:
            self.problems.append("the daemon runs the same build as before the upgrade")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.fifty", description=__doc__)
    parser.add_argument("what", choices=("kill", "upgrade"))
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--pyz", type=Path, help="the build to test (default: this checkout's)")
    parser.add_argument("--second-pyz", type=Path, help="the build to upgrade to and back from")
    options = parser.parse_args(argv)
    fifty = Fifty(options.pyz, options.second_pyz, lambda text: print(text, flush=True))
    fifty.run(options.what, options.times)
    print("\n".join(fifty.lines()))
    return 1 if fifty.problems else 0


if __name__ == "__main__":
    sys.exit(main())
