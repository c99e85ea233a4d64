"""Looks all along: the state file at every moment, who runs, and whether the daemon knows them."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tests.chaos.census import APP_ROLES, OTHER, Seen
from tests.chaos.stage import Stage

STATE_PAUSE_SECONDS = 0.02
CENSUS_PAUSE_SECONDS = 0.7
# So long a process may be unknown to a daemon that answers: it is being recognised, stopped, or started.
UNKNOWN_SECONDS = 45.0
STATUS_TIMEOUT_SECONDS = 30.0


class Watch:
    """Two threads from entering the context to leaving it; ``report`` is told each violation once."""

    def __init__(self, stage: Stage, report: Callable[[str], None]) -> None:
        self.stage, self.report = stage, report
        self.state_readings = 0
        self.censuses = 0
        self._unknown_seconds: Counter[Seen] = Counter()
        self._told: set[str] = set()
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(look, pause), name=look.__name__, daemon=True)
            for look, pause in ((self._read_state, STATE_PAUSE_SECONDS), (self._take_census, CENSUS_PAUSE_SECONDS))
        ]
        self._last_state = (0, 0)
        self._last_single: dict[str, set[str]] = {}

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)

    def _guarded(self, look: Callable[[], None], pause: float) -> None:
        try:
            while not self._is_over.wait(pause):
                look()
        except Exception as error:  # a watch that ends silently would be a check that cannot fail
            self.report(f"the watch broke: {type(error).__name__}: {error}")

    def _tell(self, violation: str) -> None:
        if violation not in self._told:
            self._told.add(violation)
            self.report(violation)

    def _read_state(self) -> None:
        path = self.stage.runtime_dir / "state.json"
        try:
            with path.open("rb") as file:
                data = file.read()
        except FileNotFoundError:
            self._tell("the state file was not there")
            return
        self.state_readings += 1
        try:
            state = json.loads(data)
        except ValueError as error:
            self._tell(f"the state file is not complete: {error}; {len(data)} bytes end with {data[-60:]!r}")
            return
        if not isinstance(state, dict) or "format" not in state or "releases" not in state:
            self._tell(f"the state file is not one: {data[:80]!r}")

    def _take_census(self) -> None:
        began = time.monotonic()
        before = {seen.who for seen in self.stage.census()}
        try:
            status = self.stage.request({"command": "status"}, STATUS_TIMEOUT_SECONDS)["result"]
        except (OSError, ValueError, KeyError):
            return  # no daemon: nobody can know anything
        people = self.stage.census()
        self.censuses += 1
        for role in ("cron", "broker"):
            living = {seen.who for seen in people if seen.role == role}
            # Seen twice in a row: not one that was dying when the other started.
            if len(both := living & self._last_single.get(role, set())) > 1:
                self._tell(f"two at once: {role} {', '.join(sorted(both))}")
            self._last_single[role] = living
        unknown = [seen for seen in people if seen.who in before and not is_known(seen, status)]
        passed = time.monotonic() - began + CENSUS_PAUSE_SECONDS
        for seen in list(self._unknown_seconds):
            if seen not in unknown:
                del self._unknown_seconds[seen]
        for seen in unknown:
            self._unknown_seconds[seen] += passed  # type: ignore[assignment]  # seconds, not a count
            if self._unknown_seconds[seen] > UNKNOWN_SECONDS:
                self._tell(f"unknown to the daemon for {UNKNOWN_SECONDS:g} s: {seen}")


def known_pids(status: dict[str, Any]) -> set[int]:
    """Every pid that the daemon's status names, its own included."""
    entries = [process for release in status["releases"] for process in release["processes"]]
    entries += [*status["services"], *status["singletons"], *status["orphans"], *status["proxy"]["workers"]]
    pids = {entry.get("pid") for entry in entries}
    pids |= {child["pid"] for entry in entries for child in entry.get("children", ())}
    return {pid for pid in pids if pid} | {status["daemon"]["pid"]}


def is_known(seen: Seen, status: dict[str, Any]) -> bool:
    """Whether the daemon knows it. Commands that we have started ourselves come and go."""
    return seen.role == OTHER or seen.pid in known_pids(status)


def what_is_unsettled(stage: Stage) -> str:
    """Say what is not as it should be when nothing happens; empty when all is well. Raises OSError without a daemon."""
    status = stage.status()
    active = status["active_release_id"]
    if active is None:
        return "no release is active"
    if status["operation"]:
        return f"{status['operation']} is going on"
    if status["orphans"]:
        return f"orphans: {status['orphans']}"
    people = stage.census()
    if unknown := [seen for seen in people if not is_known(seen, status)]:
        return "unknown to the daemon: " + "; ".join(map(str, unknown))
    for release in status["releases"]:
        if release["state"] in ("starting", "draining"):
            return f"release {release['release_id']} is {release['state']}"
    (release,) = [release for release in status["releases"] if release["state"] == "active"]
    processes = [*release["processes"], *status["services"], *status["singletons"]]
    if not_running := [f"{one['id']} is {one['state']}" for one in processes if one["state"] != "running"]:
        return ", ".join(not_running)
    counts = Counter(one["process_id"] for one in processes)
    if counts != {"web": 1, "jobs": 2, "mail": 1, "cron": 1, "broker": 1}:
        return f"the processes are {dict(counts)}"
    living = {seen.pid for seen in people if seen.role in APP_ROLES}
    if living != {one["pid"] for one in processes}:
        return f"status names {sorted(one['pid'] for one in processes)}, and there are {sorted(living)}"
    # Those that retire may take their time: a tunnel ends when its client likes.
    if [worker["state"] for worker in status["proxy"]["workers"]].count("serving") != 2:
        return f"proxy workers: {status['proxy']['workers']}"
    stale = [seen for seen in people if seen.role in ("web", "jobs", "cron") and seen.release != active]
    if stale:
        return f"{active} is active, and these are of another: " + "; ".join(map(str, stale))
    return ""
