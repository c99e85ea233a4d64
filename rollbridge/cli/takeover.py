"""``recover`` and ``predeploy-cleanup``: what is left of a daemon, or of another supervisor."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from rollbridge.cli.errors import DONE, FAILED, REFUSED, CliError
from rollbridge.cli.output import print_line, print_note, print_result
from rollbridge.cli.parser import CommandParser, Subparsers, add_command
from rollbridge.cli.session import Request, absolute_path, settings_of

if TYPE_CHECKING:
    from rollbridge.config.model import Config
    from rollbridge.config.reach import ClientSettings
    from rollbridge.takeover.orphans import Orphan

RECOVER = """\
Without an option: lists the processes that a daemon which is gone has left (id,
release, pid, age, command), and changes nothing.

--heal is for cron: silent when all is well; otherwise it starts the daemon, which
takes over what lives and starts what does not, and brings the last active release
back, also after a reboot. It leaves down what was shut down by command.

--force stops what a daemon left, whole process trees; what cannot be stopped is
named, and kept in the state file. --check is for monitoring: one line, 0 or 1."""

CLEANUP = """\
Before the first deploy: stops what it replaces, as [legacy_takeover] says. First the
stop commands of other supervisors, then screens, pid files and matching processes
with all their descendants: SIGTERM, SIGKILL after force_stop_timeout, and a look
that they are gone, stay gone, and have left the proxy's port. Otherwise exit code 1
and what is in the way: a deploy script ends there.

Does nothing when a release is active, so it may stay in the deploy script. Never
touched: this command and its ancestors, the daemon and what it manages."""

LOCK_NAME: Final = "recover.lock"
QUICK_SECONDS: Final = 2.0


def add_parser(subparsers: Subparsers[CommandParser]) -> None:
    recover = add_command(
        subparsers,
        "recover",
        run=run_recover,
        description=RECOVER,
        examples=[
            "rollbridge recover",
            "rollbridge recover --check",
            "* * * * *  rollbridge -c /srv/app/rollbridge.toml recover --heal --quiet",
        ],
    )
    what = recover.add_mutually_exclusive_group()
    what.add_argument("--force", action="store_true", help="stop what a daemon left, whole process trees")
    what.add_argument("--heal", action="store_true", help="bring the daemon and the last release back")
    what.add_argument("--check", action="store_true", help="0 when a release serves, else 1; one line")
    recover.add_argument("--quiet", action="store_true", help="print only what was wrong or done")

    cleanup = add_command(
        subparsers,
        "predeploy-cleanup",
        run=run_cleanup,
        description=CLEANUP,
        examples=[
            "rollbridge predeploy-cleanup --dry-run",
            "rollbridge predeploy-cleanup --release-path /srv/app/releases/r42 &&",
            "    rollbridge deploy --release-path /srv/app/releases/r42 --ensure-daemon",
        ],
    )
    cleanup.add_argument("--release-path", metavar="PATH", help="what is to be deployed: refused when it is not there")
    cleanup.add_argument("--dry-run", action="store_true", help="print what would be stopped, and why; stop nothing")


def run_recover(args: argparse.Namespace) -> int:
    if args.heal or args.force:
        settings = _settings(args)
        if args.heal and not args.json and _is_all_well(settings):
            return DONE
        _prepare(settings)
        with _alone(settings) as is_alone:
            if not is_alone:
                return _another_is_at_work(args)
            return _heal(args, settings) if args.heal else _force(args, settings)
    return _check(args) if args.check else _list(args)


def run_cleanup(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    _prepare(settings)
    with _alone(settings) as is_alone:
        if not is_alone:
            raise CliError("a `rollbridge recover` is at work. Try again in a moment. Nothing was stopped.", REFUSED)
        from rollbridge.cli.cleanup import clean_up

        return clean_up(args, settings)


def _settings(args: argparse.Namespace) -> ClientSettings:
    """Return how the daemon is reached; raise CliError, exit code 1, when the file does not even say that."""
    from rollbridge.config.issues import ConfigError

    try:
        return settings_of(args)
    except ConfigError as error:
        problems = [issue._asdict() for issue in error.issues]
        raise CliError(str(error), FAILED, {"problems": problems}) from error


def _prepare(settings: ClientSettings) -> None:
    from rollbridge.daemon.runtime_dir import RuntimeDirError, prepare_runtime_dir

    try:
        prepare_runtime_dir(settings.runtime_dir)
    except RuntimeDirError as error:
        raise CliError(str(error)) from error


@contextlib.contextmanager
def _alone(settings: ClientSettings) -> Iterator[bool]:
    """Hold the lock of all that recovers; False when another command has it."""
    import fcntl

    path = os.path.join(settings.runtime_dir, LOCK_NAME)  # noqa: PTH118
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise CliError(f"lock {path} cannot be used: {error.strerror}. Mend that, or change runtime_dir.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _another_is_at_work(args: argparse.Namespace) -> int:
    text = "another `rollbridge recover` is at work; this one leaves it to that."
    print_result(args, {"status": "success", "action": "none", "message": text}, "")
    if not args.json and not args.quiet:
        print_note(f"rollbridge: {text}")
    return DONE


def _is_all_well(settings: ClientSettings) -> bool:
    """Look quickly, since this runs every minute: whatever is not plainly well is looked at again, thoroughly."""
    from rollbridge.control.client import ControlClient, ControlError
    from rollbridge.takeover.healing import is_serving

    if os.path.exists(os.path.join(settings.runtime_dir, "heal.json")):  # noqa: PTH110, PTH118
        return False  # a failure is remembered, and to be forgotten
    try:
        with ControlClient(settings.control.path, settings.control.owner, QUICK_SECONDS) as client:
            result = client.request({"command": "status"}, timeout=QUICK_SECONDS).get("result")
    except ControlError:
        return False
    return isinstance(result, dict) and is_serving(result, settings.application)


def _heal(args: argparse.Namespace, settings: ClientSettings) -> int:
    from rollbridge.cli.heal import heal, is_silent

    try:
        return heal(args, settings)
    except CliError as error:
        if is_silent(error):
            return error.exit_code
        raise


# Without changing anything


def _list(args: argparse.Namespace) -> int:
    settings = _settings(args)
    from rollbridge.takeover.presence import Presence, advice, judge, observe
    from rollbridge.takeover.survey import read_state, survey

    seen = observe(settings)
    presence = judge(seen)
    if presence is Presence.ANSWERS:
        return _list_of_daemon(args, settings)
    if presence is not Presence.NONE:
        raise CliError(advice(presence, seen, settings.control.path), FAILED, {"presence": presence.value})
    known = read_state(settings.state_path)
    orphans = survey(known, settings.runtime_dir)
    document: Request = {"status": "success", "daemon": None, "orphans": [orphan.document() for orphan in orphans]}
    if known.complaint:
        document["complaint"] = known.complaint
        print_note(f"rollbridge: {known.complaint}. Listed is what is known without it.")
    heading = "" if args.quiet and not orphans else _heading(len(orphans))
    print_result(args, document, "\n".join([*([heading] if heading else []), *_table(orphans)]))
    return FAILED if known.complaint else DONE


def _list_of_daemon(args: argparse.Namespace, settings: ClientSettings) -> int:
    status = _status(settings)
    found = status.get("orphans")
    orphans = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    daemon = status.get("daemon")
    pid = daemon.get("pid") if isinstance(daemon, dict) else None
    lines = [f"{orphan.get('id')} (pid {orphan.get('pid')})" for orphan in orphans]
    text = f"the daemon runs (pid {pid}) and manages everything" if not orphans else ""
    if orphans:
        text = f"the daemon runs (pid {pid}) and does not manage: " + ", ".join(lines)
    print_result(
        args,
        {"status": "success", "daemon": {"pid": pid}, "orphans": orphans},
        "" if args.quiet and not orphans else text,
    )
    return DONE


def _heading(count: int) -> str:
    if not count:
        return "no daemon runs, and nothing is left of one"
    what = "process was" if count == 1 else "processes were"
    return (
        f"no daemon runs; {count} {what} left. `rollbridge recover --heal` takes over,\n"
        f"`rollbridge recover --force` stops them."
    )


def _table(orphans: list[Orphan]) -> list[str]:
    from rollbridge.cli.failures import visible
    from rollbridge.cli.render import WIDTH, age, table

    rows = [
        (orphan.suspect.id, orphan.suspect.release_id or "-", str(orphan.pid), age(orphan.age_seconds), "")
        for orphan in orphans
    ]
    if not rows:
        return []
    lines = table(("PROCESS", "RELEASE", "PID", "AGE", "COMMAND"), rows, "<<>><", WIDTH).split("\n")
    room = lines[0].index("COMMAND")
    commands = [visible(orphan.command) or "-" for orphan in orphans]
    shown = [
        f"{line:{room}}{command if room + len(command) <= WIDTH else command[: WIDTH - room - 2] + '..'}"
        for line, command in zip(lines[1:], commands, strict=True)
    ]
    return [lines[0], *shown]


def _status(settings: ClientSettings) -> Request:
    from rollbridge.control.client import ControlClient

    with ControlClient(settings.control.path, settings.control.owner) as client:
        result = client.request({"command": "status"}).get("result")
    return result if isinstance(result, dict) else {}


def _check(args: argparse.Namespace) -> int:
    """Print the verdict in one line; every failure to find out is a verdict too."""
    from rollbridge.cli.failures import explain

    try:
        is_ok, text, presence = _verdict(_settings(args))
    except Exception as error:  # a defect of ours as well: monitoring must see a 1, never a 2 or a traceback
        is_ok, text, presence = False, " ".join(explain(error).message.split()), "unknown"
    document: Request = {"status": "success" if is_ok else "error", "presence": presence, "message": text}
    line = "" if args.quiet and is_ok else f"{'ok' if is_ok else 'problem'}: {text}"
    print_result(args, document, line)
    return DONE if is_ok else FAILED


def _verdict(settings: ClientSettings) -> tuple[bool, str, str]:
    from rollbridge.daemon.intent import Intent
    from rollbridge.takeover.healing import check
    from rollbridge.takeover.presence import Presence, advice, judge, observe
    from rollbridge.takeover.survey import read_state

    seen = observe(settings)
    presence = judge(seen)
    known = read_state(settings.state_path)
    if presence is Presence.ANSWERS:
        verdict = check(_status(settings), known.recorded.intent)
        return verdict.is_ok, verdict.text, presence.value
    if presence is Presence.NONE and known.recorded.intent is Intent.DOWN:
        return False, f"no daemon runs: it was shut down by command ({known.state.get('written_at')})", "down"
    if presence is Presence.NONE and known.is_newer:
        return False, f"no daemon runs, and {known.complaint}", presence.value
    return False, advice(presence, seen, settings.control.path), presence.value


# Stopping what was left


def _force(args: argparse.Namespace, settings: ClientSettings) -> int:
    from rollbridge.daemon.events import format_utc
    from rollbridge.daemon.lock import DaemonLock, LockHeld
    from rollbridge.takeover.forcing import force_end, write_after_force
    from rollbridge.takeover.survey import read_state, survey

    try:
        lock = DaemonLock(settings.runtime_dir)  # no daemon begins to adopt what is being stopped
    except LockHeld as error:
        raise CliError(
            f"{error}. It manages what runs: `rollbridge shutdown` stops it all. If it does not answer, "
            f"`kill -9 {error.pid}` and then this again.",
            REFUSED,
        ) from error
    try:
        _refuse_a_daemon_that_answers(settings)
        known = read_state(settings.state_path)
        if known.is_newer:
            raise CliError(f"{known.complaint}. Run `recover --force` of that version. Nothing was stopped.", REFUSED)
        if known.complaint:
            print_note(f"rollbridge: {known.complaint}. Stopped is what is known without it.")
        orphans = survey(known, settings.runtime_dir)
        if not orphans:
            print_result(
                args,
                {"status": "success", "stopped": [], "left": []},
                "" if args.quiet else "nothing is left of a daemon",
            )
            return DONE
        forced = force_end(orphans, _config_if_possible(args))
        problem = ""
        try:
            write_after_force(known, orphans, forced.survivors, format_utc(time.time()))
        except OSError as error:
            problem = f"state file {known.path} cannot be written: {error.strerror}."
    finally:
        lock.release()
    stopped = [orphan.document() for orphan in forced.stopped]
    left = [survivor.document() for survivor in forced.survivors]
    for orphan in forced.stopped:
        if not args.json:
            print_line(f"stopped {orphan.suspect.id} (pid {orphan.pid})")
    if left or problem:
        lines = [one.text for one in forced.survivors]
        heading = f"{len(lines)} process(es) could not be stopped, and stay in the state file:" if lines else ""
        message = "\n  ".join(part for part in (problem, heading, *lines) if part)
        raise CliError(message, FAILED, {"stopped": stopped, "left": left})
    print_result(args, {"status": "success", "stopped": stopped, "left": []}, "")
    return DONE


def _refuse_a_daemon_that_answers(settings: ClientSettings) -> None:
    """Raise CliError when a daemon lives whose lock somebody has deleted: it manages what runs."""
    from rollbridge.control.listening import ControlSocketError, SocketInUse, refuse_what_is_not_ours_to_replace

    try:
        refuse_what_is_not_ours_to_replace(settings.control.path)
    except SocketInUse as error:
        raise CliError(f"{error}. Nothing was stopped.", REFUSED) from error
    except ControlSocketError:
        return  # what else is there is no daemon


def _config_if_possible(args: argparse.Namespace) -> Config | None:
    """Return the config for the processes' stop signals and times, None when it has problems: defaults will do."""
    from rollbridge.config.issues import ConfigError
    from rollbridge.config.load import load_config

    try:
        return load_config(absolute_path(args.config), os.environ)
    except ConfigError:
        return None
