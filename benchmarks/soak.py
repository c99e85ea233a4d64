#!/usr/bin/env python3
"""Deploys in a row under load: no request may fail, and nothing may grow.

    python3 benchmarks/soak.py [--deploys 200] [--app gunicorn|stub] [--pyz dist/rollbridge.pyz]

Compares the daemon and its proxy workers after the tenth deploy, half-way and at the end. Exit 0: all well; 1: a
request or a deploy failed, or something grew beyond the tolerance that the table shows.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT))

from tests.support.application import Application, python_command  # noqa: E402  (found through the line above)
from tests.support.load import Load  # noqa: E402
from tests.support.processes import children, count_fds, status_number, zombies_of  # noqa: E402
from tests.support.waiting import wait_until  # noqa: E402

WARM_DEPLOYS = 10
RELEASE_NAMES = 4  # directories used in turns; ids are new each time
SETTLE_SECONDS = 60.0
# A worker may keep a few idle connections to the app, for a second or so.
WORKER_FD_TOLERANCE = 2
QUIET_SECONDS = 1.5
# The daemon's list of events fills up to its thousand within so many deploys: some 2 MiB.
DEPLOYS_UNTIL_EVENTS_ARE_FULL = 100
RSS_TOLERANCE_KIB = 4 * 1024
RSS_TOLERANCE_OF_SECOND_HALF_KIB = 1024


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of one process.

    ``tolerance`` is how much more it may be at the end than after the tenth deploy, ``late_tolerance`` than half-way.
    """

    name: str
    value: int
    tolerance: int
    late_tolerance: int


def workers_of(daemon: int) -> list[int]:
    return sorted(line.pid for line in children(daemon) if "_proxy-worker" in line.command)


def figures(daemon: int, deploys: int) -> list[Figure]:
    """The figures of the daemon and of every proxy worker, now; ``deploys`` are those of the whole run."""
    are_full_half_way = deploys // 2 >= DEPLOYS_UNTIL_EVENTS_ARE_FULL
    late_tolerance = RSS_TOLERANCE_OF_SECOND_HALF_KIB if are_full_half_way else RSS_TOLERANCE_KIB

    def resident(name: str, pid: int) -> Figure:
        return Figure(f"{name}: resident KiB", status_number(pid, "VmRSS"), RSS_TOLERANCE_KIB, late_tolerance)

    found = [
        Figure("daemon: descriptors", count_fds(daemon), 0, 0),
        Figure("daemon: threads", status_number(daemon, "Threads"), 0, 0),
        Figure("daemon: children", len(children(daemon)), 0, 0),
        Figure("daemon: zombies", len(zombies_of(daemon)), 0, 0),
        resident("daemon", daemon),
    ]
    for number, pid in enumerate(workers_of(daemon)):
        found += [
            Figure(f"worker {number}: descriptors", count_fds(pid), WORKER_FD_TOLERANCE, WORKER_FD_TOLERANCE),
            Figure(f"worker {number}: threads", status_number(pid, "Threads"), 0, 0),
            Figure(f"worker {number}: children", len(children(pid)), 0, 0),
            resident(f"worker {number}", pid),
        ]
    return found


def wait_until_settled(application: Application, daemon: int) -> None:
    """Until every retired release is stopped and all is quiet, so that two measurements see the same situation."""

    def is_settled() -> bool:
        states = [release["state"] for release in application.status()["releases"]]
        return "draining" not in states and states.count("active") == 1

    wait_until(is_settled, "every retired release is stopped", timeout=SETTLE_SECONDS)
    counts: list[tuple[float, int]] = []

    def is_quiet() -> bool:
        """Whether nothing was opened or closed for longer than a worker keeps idle connections.

        By then the daemon has given back what the last deploy took, too. Asks nobody: a question is a connection.
        """
        now = time.monotonic()
        number = sum(count_fds(pid) for pid in (daemon, *workers_of(daemon)))
        if not counts or counts[-1][1] != number:
            counts.append((now, number))
        return now - counts[-1][0] > QUIET_SECONDS

    wait_until(is_quiet, "daemon and workers are quiet", timeout=SETTLE_SECONDS, poll=0.1)


class Soak:
    """The run: an application, its deploys, and what was counted."""

    def __init__(self, application: Application, app: str, is_websocket: bool) -> None:
        self.application = application
        self.app = app
        self.is_websocket = is_websocket
        self.requests = 0
        self.longest_seconds = 0.0
        self.daemon = 0  # its pid
        self.problems: list[str] = []
        self.deploy_seconds: list[float] = []

    def prepare(self) -> None:
        application = self.application
        application.config["proxy"]["workers"] = 1
        application.processes["web"] = application.gunicorn() if self.app == "gunicorn" else application.stub()
        application.processes["jobs"] = application.worker(non_blocking_drain=True)
        application.processes["cron"] = application.worker("singleton")
        application.processes["broker"] = application.worker("service")
        for number in range(RELEASE_NAMES):
            application.release(f"v{number}", app="wsgi_app" if self.app == "gunicorn" else "stub")
        self.daemon = application.start()
        self.deploy(0)

    def deploy(self, number: int) -> None:
        path = self.application.root / "releases" / f"v{number % RELEASE_NAMES}"
        began = time.monotonic()
        result = self.application.run("deploy", "--release-path", str(path), "--release-id", f"r{number}", expect=None)
        self.deploy_seconds.append(time.monotonic() - began)
        if result.code:
            self.problems.append(f"deploy {number} failed: {result}")

    def deploys_under_load(self, first: int, last: int) -> None:
        """Deploys ``first`` to ``last`` with clients of every kind at work all the time."""
        with Load(self.application.port, websocket=1 if self.is_websocket else 0) as load:
            for number in range(first, last + 1):
                self.deploy(number)
                load.wait_for_release(f"r{number}")
                if number % 20 == 0:
                    print(f"  {number} deploys, {self.requests + load.total} requests", flush=True)
        self.requests += load.total
        self.longest_seconds = max(self.longest_seconds, load.longest_seconds)
        if load.failures:
            self.problems.append(load.describe_failures())
        wait_until_settled(self.application, self.daemon)

    def compare(self, early: Sequence[Figure], middle: Sequence[Figure], late: Sequence[Figure]) -> None:
        """Print the three measurements side by side and note what grew."""
        if not [one.name for one in early] == [one.name for one in middle] == [one.name for one in late]:
            self.problems.append("the number of proxy workers changed")
            return
        print(f"\n  {'':<26}{'10th':>10}{'half-way':>10}{'end':>10}  allowed since")
        for first, half, last in zip(early, middle, late, strict=True):
            allowed = f"+{last.tolerance}, +{last.late_tolerance}"
            grew = last.value > first.value + last.tolerance or last.value > half.value + last.late_tolerance
            if grew:
                self.problems.append(f"{last.name} grew: {first.value}, {half.value}, {last.value}")
            print(f"  {last.name:<26}{first.value:>10}{half.value:>10}{last.value:>10}  {allowed}{' GREW' * grew}")

    def run(self, deploys: int) -> None:
        self.prepare()
        half = max(WARM_DEPLOYS, deploys // 2)
        measured = []
        done = 0
        for goal in (WARM_DEPLOYS, half, deploys):
            if goal > done:
                self.deploys_under_load(done + 1, goal)
                done = goal
            measured.append(figures(self.daemon, deploys))
        self.compare(*measured)
        times = sorted(self.deploy_seconds)
        print(f"\n  deploys: {deploys}, median {times[len(times) // 2]:.2f} s, slowest {times[-1]:.2f} s")
        print(f"  requests: {self.requests}, slowest answer {self.longest_seconds * 1000:.0f} ms")


def file_to_test(given: str | None) -> Path:
    """The file to test; ends the run when there is none."""
    path = Path(given).resolve() if given else CHECKOUT / "dist" / "rollbridge.pyz"
    if not path.exists():
        raise SystemExit(f"soak: {path} does not exist: run python3 build_zipapp.py, or name another with --pyz")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deploys", type=int, default=200, help="at least 10; default: %(default)s")
    parser.add_argument("--app", choices=["gunicorn", "stub"], help="default: gunicorn when it can be imported")
    parser.add_argument("--pyz", help="default: dist/rollbridge.pyz of this checkout")
    options = parser.parse_args()
    if options.deploys < WARM_DEPLOYS:
        parser.error(f"--deploys must be at least {WARM_DEPLOYS}")
    app = options.app or ("gunicorn" if importlib.util.find_spec("gunicorn") else "stub")
    application = Application(python_command(file_to_test(options.pyz)), "soak")
    soak = Soak(application, app, is_websocket=app == "stub")
    print(f"soak: {options.deploys} deploys of a {app} app under load")
    try:
        soak.run(options.deploys)
        application.shutdown()
    except AssertionError as error:
        soak.problems.append(str(error))
        print(application.report(), file=sys.stderr)
    finally:
        survivors = application.close()
        application.remove()
    if survivors:
        soak.problems.append("survived the shutdown: " + "; ".join(map(str, survivors)))
    for problem in soak.problems:
        print(f"\nPROBLEM: {problem}")
    print("\nsoak: " + ("FAILED" if soak.problems else "passed"))
    return 1 if soak.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
