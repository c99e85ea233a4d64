"""``recover --heal``: the daemon and the last release are brought back, if that is wanted and they are gone."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final, NoReturn

from rollbridge.cli.ensure import ensure_daemon
from rollbridge.cli.errors import DONE, FAILED, REFUSED, CliError
from rollbridge.cli.output import print_note, print_result
from rollbridge.cli.session import Request, absolute_path
from rollbridge.control.client import CommandFailed, ControlClient
from rollbridge.daemon.attach import has_worker
from rollbridge.daemon.intent import Intent
from rollbridge.process.identity import read_boot_id
from rollbridge.takeover.backoff import HealRecord, clear_record, failed, read_record, wait_seconds, write_record
from rollbridge.takeover.healing import Need, active_processes, has_given_up, need_of, returnable
from rollbridge.takeover.presence import STUCK_SECONDS, Observation, Presence, advice, judge, observe
from rollbridge.takeover.survey import KnownState, is_in_memory, read_state, survey

if TYPE_CHECKING:
    from rollbridge.config.reach import ClientSettings
    from rollbridge.release.fleet import ReleaseIdentity

# Longer than ensure-daemon's: what died beside the daemon is started again before it answers.
START_SECONDS: Final = 60.0
_CHECK_SECONDS: Final = 5.0


def heal(args: argparse.Namespace, settings: ClientSettings) -> int:
    """Heal what needs it and return the exit code; raise CliError for what could not be healed. The caller holds the
    lock that keeps a second one away."""
    return _Healing(args, settings).run()


class _Healing:
    """One run. ``did`` collects what was done, for the one line at the end."""

    def __init__(self, args: argparse.Namespace, settings: ClientSettings) -> None:
        self.args = args
        self.settings = settings
        self.record: HealRecord = read_record(settings.runtime_dir, read_boot_id())
        self.did: list[str] = []
        self.complaint = ""  # what was wrong with the state file that a daemon was started on

    def run(self) -> int:
        seen = observe(self.settings)
        presence = judge(seen)
        if presence is Presence.NONE:
            known = read_state(self.settings.state_path)
            if known.is_newer:
                self._give_up(f"{known.complaint}. {self._standing()}", "", exit_code=REFUSED)
            if not self._is_daemon_wanted(known):
                return DONE
            self._start(known)
        elif presence is Presence.STARTING:
            return self._finish("starting", advice(presence, seen, self.settings.control.path))
        elif presence is not Presence.ANSWERS:
            return self._unanswered(presence, seen)
        return self._bring_release_back()

    def _unanswered(self, presence: Presence, seen: Observation) -> int:
        """Leave a daemon alone that is there and silent: killing it is for the operator to decide."""
        now = _now()
        since = self.record.silent_since if self.record.silent_since is not None else now
        write_record(self.settings.runtime_dir, _with_silence(self.record, since))
        if presence is Presence.BUSY and now - since < STUCK_SECONDS:
            return self._finish("busy", advice(presence, seen, self.settings.control.path))
        verdict = Presence.STUCK if presence is Presence.BUSY else presence
        raise CliError(advice(verdict, seen, self.settings.control.path), FAILED, {"presence": verdict.value})

    def _is_daemon_wanted(self, known: KnownState) -> bool:
        path = self.settings.state_path
        if known.recorded.intent is Intent.DOWN:
            at = known.state.get("written_at")
            self._finish("down", f"shut down by command ({at}), so it stays down until the next deploy.")
            return False
        if not known.is_there and not survey(known, self.settings.runtime_dir):
            if is_in_memory(os.path.dirname(path)):  # noqa: PTH120
                self._give_up(
                    f"there is no state file {path}, and it would be in memory: after a reboot nobody knows which "
                    f"release to bring back. Set state_path to a file on disk, such as "
                    f"/var/lib/rollbridge/{self.settings.application}.state.json, and deploy.",
                    "",
                )
            self._finish("nothing", f"nothing to bring back: no release was ever active (no state file {path}).")
            return False
        if is_going_down():
            self._finish("down", "the machine is going down: nothing is started.")
            return False
        return True

    def _start(self, known: KnownState) -> None:
        """Start the daemon, which adopts what lives and starts what does not; raise CliError."""
        circumstances = self._circumstances(known.recorded.last_active)
        self._hold_back(circumstances)
        # Counted before it is tried: a start that takes the machine down with it must not be tried every minute.
        self.record = failed(self.record, "the last start did not come to its end", circumstances, _now())
        write_record(self.settings.runtime_dir, self.record)
        try:
            running = ensure_daemon(argparse.Namespace(**{**_NO_START_OPTIONS, **vars(self.args)}))
        except Exception as error:
            from rollbridge.cli.failures import explain

            told = explain(error)
            message = f"{told.message.removesuffix('.')}. {self._standing()}"
            self._give_up(message, circumstances, told.data, is_counted=True)
        pid = running.answer.get("pid")
        self.did.append(f"daemon started (pid {pid})" if running.is_started else f"daemon runs (pid {pid})")
        if known.complaint:
            self.complaint = known.complaint
            self.did.append(known.complaint)

    def _bring_release_back(self) -> int:
        known = read_state(self.settings.state_path)
        last = known.recorded.last_active
        with ControlClient(self.settings.control.path, self.settings.control.owner) as client:
            status = _status(client)
            need = need_of(status, known.recorded.intent, last)
            if need is Need.RELEASE:
                assert last is not None
                self._deploy(client, status, last)
                status = _status(client)
        if self.complaint and not status.get("active_release_id"):
            self._give_up(
                f"the daemon was started, but {self.complaint}. It is kept aside. What ran before is listed by "
                f"`rollbridge recover` as long as it lives; deploy the release again.",
                self._circumstances(last),
                is_counted=True,
            )
        if need is not Need.WAIT:
            clear_record(self.settings.runtime_dir)
        if not self.did:
            return self._finish("none", "")
        active = status.get("active_release_id")
        self.did.append(_serving(status) if active else "no release is to be brought back")
        text = "; ".join(self.did)
        print_result(self.args, {"status": "success", "action": "healed", "message": text}, f"{text}.")
        return DONE

    def _deploy(self, client: ControlClient, status: Request, last: ReleaseIdentity) -> None:
        circumstances = self._circumstances(last)
        if not os.path.isdir(last.release_path):  # noqa: PTH112
            # A start of ours has just asked whether it is time, and has counted.
            self._give_up(_directory_gone(status, last), circumstances, is_counted=bool(self.did))
        if not self.did:
            self._hold_back(circumstances)
            self.record = failed(self.record, "the last start did not come to its end", circumstances, _now())
            write_record(self.settings.runtime_dir, self.record)
        request: Request = {
            "command": "deploy",
            "release_path": last.release_path,
            "release_id": last.release_id,
            "revision": last.revision,
            "force": has_given_up(status),
        }
        try:
            client.request(request, timeout=None)
        except CommandFailed as error:
            if error.exit_code == REFUSED and "busy" in error.message:
                return  # somebody else deploys at this moment
            self._give_up(
                f"release {last.release_id} was not brought back: {error.message}", circumstances, error.data, True
            )
        self.did.append(f"release {last.release_id} started again")

    # What holds back, and what is told

    def _circumstances(self, last: ReleaseIdentity | None) -> str:
        """Return what a failure may have to do with: once it has changed, another try is due at once."""
        from rollbridge.runtime import runtime_info

        config = os.stat(absolute_path(self.args.config))  # noqa: PTH116
        has_release = last is not None and os.path.isdir(last.release_path)  # noqa: PTH112
        return f"{config.st_mtime_ns} {config.st_size} {has_release} {runtime_info().digest}"

    def _hold_back(self, circumstances: str) -> None:
        """Raise CliError while it is too early for another try; a person at a terminal does not have to wait."""
        seconds = wait_seconds(self.record, circumstances, _now())
        if seconds <= 0 or sys.stderr.isatty():
            return
        if self.args.quiet and not self.args.json:
            raise _Silent(FAILED)
        raise CliError(
            f"{self.record.reason} Failed {self.record.failures} time(s); tried again in {seconds:.0f} s, or at once "
            f"when the config, the release or this file changes.",
            FAILED,
            {"failures": self.record.failures, "retry_seconds": round(seconds)},
        )

    def _give_up(
        self,
        message: str,
        circumstances: str,
        data: object = None,
        is_counted: bool = False,
        exit_code: int = FAILED,
    ) -> NoReturn:
        """Remember the failure and raise CliError; told once with ``--quiet``, until it is tried again."""
        if not is_counted:
            self._hold_back(circumstances)
            self.record = failed(self.record, message, circumstances, _now())
        write_record(self.settings.runtime_dir, _with_reason(self.record, message))
        raise CliError(message, exit_code, data if isinstance(data, dict) else {})

    def _standing(self) -> str:
        if has_worker(self.settings.runtime_dir):
            return "The proxy workers go on serving what runs."
        return "Nothing serves."

    def _finish(self, action: str, text: str) -> int:
        """Say ``text`` unless only what was wrong or done is asked for."""
        if self.args.json:
            print_result(self.args, {"status": "success", "action": action, "message": text}, "")
        elif text and not self.args.quiet:
            print_note(f"rollbridge: {text}")
        return DONE


class _Silent(CliError):
    """Only an exit code: the same has been said already."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("", exit_code)


def is_silent(error: CliError) -> bool:
    """Whether ``error`` has nothing to say."""
    return isinstance(error, _Silent)


_NO_START_OPTIONS: Final = {
    "daemon_log_path": None,
    "daemon_pid_path": None,
    "daemon_start_timeout": START_SECONDS,
    "upgrade": False,
}


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _with_silence(record: HealRecord, since: float) -> HealRecord:
    from dataclasses import replace

    return replace(record, silent_since=since)


def _with_reason(record: HealRecord, reason: str) -> HealRecord:
    from dataclasses import replace

    return replace(record, reason=reason)


def _status(client: ControlClient) -> Request:
    result = client.request({"command": "status"}).get("result")
    return result if isinstance(result, dict) else {}


def _serving(status: Request) -> str:
    processes = active_processes(status)
    for shared in (status.get("services"), status.get("singletons")):
        processes += [process for process in shared if isinstance(process, dict)] if isinstance(shared, list) else []
    adopted = sum(1 for process in processes if process.get("adopted"))
    count = f"{adopted} of {len(processes)} processes taken over as they were" if adopted else "all started anew"
    return f"release {status.get('active_release_id')} serves ({count})"


def _directory_gone(status: Request, last: ReleaseIdentity) -> str:
    releases = status.get("releases")
    paths = (
        {str(one.get("release_path")) for one in releases if isinstance(one, dict)}
        if isinstance(releases, list)
        else set()
    )
    kept = returnable(status, last.release_id, [path for path in paths if os.path.isdir(path)])  # noqa: PTH112
    others = f"run `rollbridge rollback --release-id {kept[0]}`, whose directory is there, or " if kept else ""
    return (
        f"release {last.release_id} cannot be brought back: its directory {last.release_path} is gone. Restore it, "
        f"{others}deploy another release. The daemon runs, the proxy answers 503."
    )


def is_going_down() -> bool:
    """Whether the machine is on its way down: what is started now would only be in the way."""
    if not os.path.isdir("/run/systemd/system"):  # noqa: PTH112
        return False
    try:
        answer = subprocess.run(
            ["systemctl", "is-system-running"], capture_output=True, timeout=_CHECK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.strip() == b"stopping"
