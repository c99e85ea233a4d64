"""Carries out the actions of a plan: kills, and the commands of an operator, one command at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.attribution import Kill, Span, judge_command
from tests.chaos.census import DAEMON, WORKER, Seen, is_listening, kill
from tests.chaos.cron import COMMAND_SECONDS, DAEMON_BACK_SECONDS
from tests.chaos.plan import Action, Kind
from tests.chaos.stage import Stage
from tests.chaos.watch import what_is_unsettled
from tests.support.application import Command
from tests.support.waiting import NeverHappened, wait_until

SETTLE_SECONDS = 150.0
POLL_SECONDS = 0.1
PHASES = ("reload", "ports", "start", "health", "switch", "services", "singletons", "retire", "done")
RESTARTS = (("--policy", "companion"), ("--process", "cron"), ("--process", "broker"), ("--process", "jobs"), ())

KILLED_ROLES = {
    Kind.KILL_WORKER: WORKER,
    Kind.KILL_WEB: "web",
    Kind.KILL_COMPANION: "jobs",
    Kind.KILL_SINGLETON: "cron",
    Kind.KILL_SERVICE: "broker",
}


@dataclass(slots=True)
class Running:
    """A command that has been started; ``then`` is told its exit code and its output when it has ended."""

    name: str
    command: Command
    began_at: float
    fails: bool
    then: Callable[[int, str], None]


class Acts:
    """What is done to one stage. ``say`` writes the log; ``report`` is told violations."""

    def __init__(self, stage: Stage, say: Callable[[str], None], report: Callable[[str], None]) -> None:
        self.stage, self.say, self.report = stage, say, report
        self.builds: Sequence[Path] = ()
        self.kills: list[Kill] = []
        self.spans: list[Span] = []
        self.counts: dict[Kind, int] = dict.fromkeys(Kind, 0)
        self.active: str | None = None  # which release has to be active; None: either of two
        self._running: Running | None = None
        self._releases = 0
        self._build = 0

    @property
    def installed(self) -> Path:
        """The file that every command is run from: an upgrade begins with replacing it."""
        return self.stage.root / "rollbridge.pyz"

    def install(self, build: int) -> None:
        self._build = build
        fresh = self.installed.with_suffix(".new")
        shutil.copyfile(self.builds[build], fresh)
        fresh.replace(self.installed)

    def install_other(self) -> None:
        self.install(1 - self._build)

    def begin(self, builds: tuple[Path, Path]) -> None:
        """Deploy the first release with a detached daemon, of the first of two builds to upgrade between."""
        self.builds = builds
        self.install(0)
        self.stage.write_config()
        release = self._next_release()
        self.stage.run(*self.stage.deploy_arguments(release, "--ensure-daemon"), timeout=COMMAND_SECONDS)
        self.active = release.name
        self.settle()

    def carry_out(self, action: Action) -> None:
        """Do it, or say why there is nothing to do it to."""
        self.counts[action.kind] += 1
        if action.kind in KILLED_ROLES:
            self._kill_one(action, KILLED_ROLES[action.kind])
            return
        {
            Kind.KILL_DAEMON: self._kill_daemon,
            Kind.DEPLOY: self._deploy,
            Kind.DEPLOY_FAILING: self._deploy_failing,
            Kind.DEPLOY_CUT: self._deploy_cut,
            Kind.ROLLBACK: self._rollback,
            Kind.RESTART: self._restart,
            Kind.HEAL: self._heal,
            Kind.UPGRADE: self._upgrade,
            Kind.SETTLE: self._settle,
        }[action.kind](action)

    # --- kills

    def _kill(self, seen: Seen, why: str) -> None:
        killed = kill(seen, self.stage.port)
        if killed is None:
            self.say(f"{why}: {seen.role} {seen.who} has just ended by itself")
            return
        self.kills.append(killed)
        self.say(f"{why}: {seen.role} {seen.who} of {seen.release or 'the daemon'}")

    def _kill_one(self, action: Action, role: str) -> None:
        people = self.stage.census()
        there = [seen for seen in people if seen.role == role]
        if not there:
            self.say(f"{action.kind.value}: there is none at this moment")
            return
        chosen = there[action.choose(len(there))]
        if role == WORKER and not self._is_listened_without(chosen, people):
            self.say("kill proxy worker: spared, nobody else holds the listening socket")
        else:
            self._kill(chosen, action.kind.value)

    def _is_listened_without(self, leaving: Seen, people: Sequence[Seen]) -> bool:
        """Whether somebody else holds the listening socket, so that the kernel refuses nobody."""
        others = (seen for seen in people if seen.role in (DAEMON, WORKER) and seen.who != leaving.who)
        return any(is_listening(seen.pid, self.stage.port) for seen in others)

    def _daemon(self, people: Sequence[Seen]) -> Seen | None:
        return next((seen for seen in people if seen.role == DAEMON), None)

    def _kill_daemon(self, action: Action) -> None:
        people = self.stage.census()
        daemon = self._daemon(people)
        if daemon is None:
            self.say("kill daemon: there is none at this moment")
        elif not self._is_listened_without(daemon, people):
            self.say("kill daemon: spared, nobody else holds the listening socket")
        else:
            self._kill(daemon, "kill daemon")

    # --- commands

    def _start(
        self, name: str, *arguments: str, fails: bool = False, then: Callable[[int, str], None] = lambda *_: None
    ) -> None:
        """Start a command and come back; the one before has to be over."""
        self.finish()
        self.say(f"{name}: {' '.join(arguments)}")
        self._running = Running(name, self.stage.spawn(*arguments), time.monotonic(), fails, then)

    def finish(self) -> None:
        """Wait for the command that runs, if one does, and judge its end."""
        running, self._running = self._running, None
        if running is None:
            return
        try:
            result = running.command.finish(COMMAND_SECONDS)
        except AssertionError as error:
            self.report(str(error))
            return
        self.stage.commands.remove(running.command)
        span = Span(running.name, running.began_at, time.monotonic())
        self.spans.append(span)
        self.say(f"{running.name}: ended with {result.code} after {span.ended_at - span.began_at:.1f} s")
        if wrong := judge_command(span, result.code, result.stdout + result.stderr, self.kills, running.fails):
            self.report(f"{wrong}: {result}")
        running.then(result.code, result.stdout)

    def _wait_daemon(self) -> bool:
        """Wait until a daemon answers (cron brings it back); False, and a violation, when none comes."""
        try:
            wait_until(self.stage.daemon_pid, "a daemon answers", timeout=DAEMON_BACK_SECONDS, poll=POLL_SECONDS)
        except NeverHappened as error:
            self.report(f"{error}")
            return False
        return True

    def _next_release(self, behaviour: dict[str, int] | None = None) -> Path:
        self._releases += 1
        return self.stage.make_release(f"r{self._releases}", behaviour)

    def _deploy(self, action: Action) -> None:
        self.finish()
        release = self._next_release()
        options = ["--wait"]
        if self.stage.daemon_digest() in (None, self._installed_digest()):
            options.append("--ensure-daemon")
        self.active = None

        def then(code: int, _output: str) -> None:
            self.active = release.name if code == 0 else None

        self._start("deploy", *self.stage.deploy_arguments(release, *options), then=then)

    def _installed_digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.installed.read_bytes()).hexdigest()}"

    def _deploy_failing(self, action: Action) -> None:
        self.finish()
        if not self._wait_daemon():
            return
        release = self._next_release({"exit_code": 3} if action.roll < 0.5 else {"ping_status": 500})
        self.stage.make_impatient(True)

        def then(code: int, _output: str) -> None:
            self.stage.make_impatient(False)

        self._start("failing deploy", *self.stage.deploy_arguments(release, "--wait"), fails=True, then=then)

    def _deploy_cut(self, action: Action) -> None:
        """Deploy over the control socket, and kill the daemon when it tells the phase that ``roll`` chooses."""
        self.finish()
        if not self._wait_daemon():
            return
        release = self._next_release()
        phase = PHASES[action.choose(len(PHASES))]
        people = self.stage.census()
        daemon = self._daemon(people)
        if daemon is None or not self._is_listened_without(daemon, people):
            self.say("deploy cut off: not now, the daemon is gone, or the only one to hold the listening socket")
            return
        began = time.monotonic()
        answer = self._deploy_until(
            release, phase, lambda: self._kill(daemon, f"deploy {release.name} cut off at {phase}")
        )
        self.spans.append(Span("deploy cut off", began, time.monotonic()))
        # A success that was told holds; without one it may be this or that.
        self.active = release.name if answer.get("status") == "success" else None

    def _deploy_until(self, release: Path, phase: str, act: Callable[[], None]) -> dict[str, Any]:
        """Deploy; ``act`` at ``phase``, the first line that tells of it. Returns the answer, empty when none came."""
        message = {"command": "deploy", "release_path": str(release), "release_id": release.name, "wait": True}
        has_acted = False
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(COMMAND_SECONDS)
                connection.connect(str(self.stage.control_path))
                connection.sendall(json.dumps(message).encode() + b"\n")
                with connection.makefile("rb") as lines:
                    for line in lines:
                        told = json.loads(line)
                        if "status" in told:
                            if not has_acted:
                                self.say(f"deploy {release.name} was to be cut off at {phase}, and ended before")
                            return dict(told)
                        if not has_acted and told.get("progress", {}).get("phase") == phase:
                            has_acted = True
                            act()
        except (OSError, ValueError) as error:
            if not has_acted:
                self.say(f"deploy {release.name}: the daemon went away: {error}")
        return {}

    def _rollback(self, action: Action) -> None:
        self.finish()
        if not self._wait_daemon():
            return
        with contextlib.suppress(OSError, ValueError):
            releases = self.stage.status()["releases"]
            if not any(release["state"] in ("stopped", "draining") for release in releases):
                self.say("rollback: there is no release to go back to")
                return
        self.active = None

        def then(code: int, output: str) -> None:
            if code == 0:
                self.active = json.loads(output)["active_release_id"]

        self._start("rollback", "rollback", "--wait", "--json", then=then)

    def _restart(self, action: Action) -> None:
        self.finish()
        if self._wait_daemon():
            self._start("restart", "restart", *RESTARTS[action.choose(len(RESTARTS))])

    def _heal(self, action: Action) -> None:
        self.finish()
        self._start("heal", "recover", "--heal", "--quiet")
        self.finish()

    def _upgrade(self, action: Action) -> None:
        self.finish()
        if not self._wait_daemon():
            return
        self.install_other()
        self._start("upgrade", "upgrade", "--wait")

    # --- rest

    def _settle(self, _action: Action) -> None:
        self.settle()

    def settle(self) -> None:
        """Wait until all is as it should be when nothing happens."""
        self.finish()
        began = time.monotonic()
        last = ["nobody has looked"]

        def is_settled() -> bool:
            try:
                last[0] = what_is_unsettled(self.stage)
            except OSError as error:
                last[0] = f"no daemon answers: {error}"
            return not last[0]

        try:
            wait_until(is_settled, lambda: last[0], timeout=SETTLE_SECONDS, poll=POLL_SECONDS)
        except NeverHappened as error:
            self.report(f"it does not settle: {error}")
            return
        found = self.stage.status()["active_release_id"]
        if self.active is not None and found != self.active:
            self.report(f"release {self.active} was active by a command's answer, and now it is {found}")
        self.active = found
        self.say(f"settled after {time.monotonic() - began:.1f} s: {found} is active")
