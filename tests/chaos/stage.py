"""The application under chaos: its config, its releases, its records, and the guard that leaves nothing of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.attribution import Life
from tests.chaos.census import Seen, census
from tests.chaos.jobs import JobQueue
from tests.support.application import Application
from tests.support.ports import free_block

APP = Path(__file__).with_name("app.py")
CHECKOUT = APP.parent.parent.parent
WEB_PORTS = 16
HOLD_SECONDS = 15.0
DRAIN_SECONDS = 3.0
OUTPUT_LINES = 4000
# A failing deploy that waits for its health waits so long; every other one has all the time that a slow machine needs.
FAILING_HEALTH = "2s"
PATIENT_HEALTH = "60s"


class Stage(Application):
    """The files and processes of one run; ``close`` and ``remove`` as any application of the tests."""

    def __init__(self, command: Sequence[str], label: str = "chaos") -> None:
        super().__init__(command, label)
        self.records = self.root / "records"
        for place in ("requests",):
            (self.records / place).mkdir(parents=True)
        self.queue = JobQueue(str(self.records / "jobs"), "nobody")
        self.queue.create()
        self.builds_dir = self.root / "builds"
        first = free_block(WEB_PORTS + 2)
        self.port, self.web_ports, self.broker_port = first, (first + 1, first + WEB_PORTS), first + WEB_PORTS + 1
        self.config = self._chaos_config(PATIENT_HEALTH)
        self.env["CHAOS_DIR"] = str(self.records)
        self.guard = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.guard", self.mark, str(self.root)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd=CHECKOUT,
        )

    def _chaos_config(self, health_timeout: str) -> dict[str, Any]:
        python = [sys.executable, "-S", "-E", str(APP)]
        common = {"restart_delay": "100ms", "output_lines": OUTPUT_LINES}
        return {
            "application": self.name,
            "runtime_dir": str(self.runtime_dir),
            "control": {"path": str(self.control_path)},
            "proxy": {
                "port": self.port,
                "workers": 2,
                "hold_timeout": f"{HOLD_SECONDS:g}s",
                "drain_timeout": f"{DRAIN_SECONDS:g}s",
                "force_stop_timeout": "45s",
                "head_timeout": "60s",
            },
            "release_retention": {"keep": 3},
            "processes": {
                "web": {
                    "policy": "proxied",
                    "command": [*python, "web", "{{port}}", "{{proxy.upstream_host}}"],
                    "port": f"{self.web_ports[0]}-{self.web_ports[1]}",
                    "health": {"path": "/ping", "timeout": health_timeout},
                    **common,
                },
                "jobs": {"policy": "companion", "command": [*python, "jobs"], "replicas": 2, **common},
                "mail": {"policy": "companion", "command": [*python, "jobs"], "non_blocking_drain": True, **common},
                "cron": {"policy": "singleton", "command": [*python, "cron"], **common},
                "broker": {
                    "policy": "service",
                    "command": [*python, "broker", "{{port}}"],
                    "port": self.broker_port,
                    **common,
                },
            },
        }

    def make_impatient(self, is_impatient: bool) -> None:
        """Let the next deploy wait only shortly for its health, or as long as it takes."""
        self.config = self._chaos_config(FAILING_HEALTH if is_impatient else PATIENT_HEALTH)
        # In one step: a daemon that starts meanwhile must not find half a config.
        fresh = self.config_path.with_suffix(".new")
        path, self.config_path = self.config_path, fresh
        self.write_config()
        self.config_path = path
        fresh.replace(path)

    def make_release(self, release_id: str, behaviour: dict[str, int] | None = None) -> Path:
        path = self.root / "releases" / release_id
        path.mkdir(parents=True, exist_ok=True)
        (path / "behaviour.json").write_text(json.dumps(behaviour or {}))
        return path

    # --- what is known

    def daemon_digest(self) -> str | None:
        """Of the code that the daemon runs; None when none answers."""
        with contextlib.suppress(OSError, ValueError):
            return str(self.request({"command": "ping"})["digest"])
        return None

    def census(self) -> list[Seen]:
        return census(self.mark)

    def lives(self) -> list[Life]:
        """The application's record of itself, in order."""
        path = self.records / "life"
        lines = path.read_text().splitlines() if path.exists() else []
        entries = [json.loads(line) for line in lines]
        return [
            Life(
                entry["event"],
                entry["role"],
                entry["who"],
                entry["at"],
                entry["release"],
                str(entry.get("holder") or entry.get("reason") or ""),
            )
            for entry in entries
        ]

    def begun_by(self, request_ids: Iterable[str]) -> dict[str, list[str]]:
        """Per request the web processes that began to answer it, oldest first."""
        wanted = set(request_ids)
        found: dict[str, list[str]] = {}
        if not wanted:
            return found
        for path in sorted((self.records / "requests").iterdir(), key=lambda path: path.stat().st_mtime_ns):
            for line in path.read_text().splitlines():
                if line.startswith("b ") and line[2:] in wanted:
                    found.setdefault(line[2:], []).append(path.name)
        return found

    def repeated(self, prefix: str) -> list[str]:
        """The requests whose id begins with ``prefix`` that were begun more than once."""
        seen: set[str] = set()
        twice = []
        for path in (self.records / "requests").iterdir():
            with path.open() as lines:
                for line in lines:
                    if line.startswith(f"b {prefix}"):
                        if line in seen:
                            twice.append(line[2:].strip())
                        seen.add(line)
        return twice

    def release_guard(self) -> None:
        """Let the guard do its work and end."""
        assert self.guard.stdin is not None
        self.guard.stdin.close()
        self.guard.wait(60)
