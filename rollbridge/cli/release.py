"""``deploy``, ``rollback``, ``stop``, ``restart``, ``reload``: what changes which release runs, and how."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from rollbridge.cli.ensure import add_ensure_options, ensure_daemon
from rollbridge.cli.errors import CliError
from rollbridge.cli.output import print_result
from rollbridge.cli.parser import CommandParser, Subparsers, add_command
from rollbridge.cli.session import Request, absolute_path, client_of
from rollbridge.control.client import AskAgain

if TYPE_CHECKING:
    from rollbridge.cli.progress import LiveProgress, PlainProgress

POLICIES = ("companion", "singleton", "service", "proxied")

DEPLOY = """\
Starts the release that lies prepared in PATH, waits until it is healthy,
switches the traffic to it and retires the old one in the background. When
something fails before the switch, what was started is stopped and the old
release keeps serving. The active release again is a success that changes
nothing, unless --force.

The deploy runs in the daemon: when this command is interrupted, it goes on."""

ROLLBACK = """\
Switches back to a release that was active before, by default the one that was
retired last, with the steps of a deploy. One that still drains takes over again
as it is, without a restart."""

STOP = """\
Takes the active release (or the one named) out of traffic, lets its connections
end, and stops its processes; answers when they are gone. The daemon goes on: the
proxy answers 503 until the next deploy or rollback."""

RESTART = """\
Stops and starts processes of the active release, services and singletons: all,
or those chosen. The proxied process is refused, since requests would be lost:
deploy the same release again with --force."""

RELOAD = """\
Opens the logs anew and reads the config again, as SIGHUP does, and says how that
went. The proxy's settings count at once, definitions of processes from the next
start of each. A config with problems, or one that takes a restart, is not adopted.
Waits for a deploy that runs."""


def add_parser(subparsers: Subparsers[CommandParser]) -> None:
    deploy = add_command(
        subparsers,
        "deploy",
        run=run_deploy,
        description=DEPLOY,
        examples=[
            "rollbridge deploy --release-path /srv/app/releases/r42",
            "rollbridge deploy --release-path . --release-id r43 --ensure-daemon",
        ],
    )
    deploy.add_argument("--release-path", metavar="PATH", required=True, help="directory of the prepared release")
    deploy.add_argument("--release-id", metavar="ID", help="its name (default: the name of the directory)")
    deploy.add_argument("--revision", metavar="REV", help="what it was built from (default: the release id)")
    deploy.add_argument("--wait", action="store_true", help="wait for a deploy that runs, instead of being refused")
    deploy.add_argument("--force", action="store_true", help="also when this release is active already")
    deploy.add_argument("--ensure-daemon", action="store_true", help="start the daemon first if none answers")
    add_ensure_options(deploy)

    rollback = add_command(
        subparsers,
        "rollback",
        run=run_rollback,
        description=ROLLBACK,
        examples=["rollbridge rollback", "rollbridge rollback --release-id r41"],
    )
    rollback.add_argument("--release-id", metavar="ID", help="the release to go back to")
    rollback.add_argument("--wait", action="store_true", help="wait for a deploy that runs, instead of being refused")

    stop = add_command(
        subparsers,
        "stop",
        run=run_stop,
        description=STOP,
        examples=["rollbridge stop", "rollbridge stop --release-id r41"],
    )
    stop.add_argument("--release-id", metavar="ID", help="the release to stop (default: the active one)")

    restart = add_command(
        subparsers,
        "restart",
        run=run_restart,
        description=RESTART,
        examples=["rollbridge restart --process worker", "rollbridge restart --policy companion"],
    )
    restart.add_argument("--process", metavar="ID", help="only this process of the config, all its replicas")
    restart.add_argument("--policy", choices=POLICIES, help="only processes of this policy", metavar="POLICY")

    add_command(
        subparsers,
        "reload",
        run=run_reload,
        description=RELOAD,
        examples=["rollbridge reload", "mv access.log access.log.1 && rollbridge reload"],
    )


def run_deploy(args: argparse.Namespace) -> int:
    given = ("--daemon-log-path", "--daemon-pid-path", "--daemon-start-timeout")
    if args.upgrade and not args.ensure_daemon:
        raise CliError("--upgrade is for --ensure-daemon, which was not given. See `rollbridge deploy --help`.", 2)
    unused = [option for option in given if getattr(args, option[2:].replace("-", "_")) is not None]
    if unused and not args.ensure_daemon:
        raise CliError(f"{unused[0]} is for --ensure-daemon, which was not given. See `rollbridge deploy --help`.", 2)
    request: Request = {
        "command": "deploy",
        "release_path": absolute_path(args.release_path),
        "wait": args.wait,
        "force": args.force,
        **_given(release_id=args.release_id, revision=args.revision),
    }
    if args.ensure_daemon:
        ensure_daemon(args)
    answer = _ask_with_progress(args, request)
    print_result(args, answer, _outcome(answer))
    return 0


def run_rollback(args: argparse.Namespace) -> int:
    request: Request = {"command": "rollback", "wait": args.wait, **_given(release_id=args.release_id)}
    answer = _ask_with_progress(args, request)
    print_result(args, answer, _outcome(answer))
    return 0


def run_stop(args: argparse.Namespace) -> int:
    answer = _ask_with_progress(
        args, {"command": "stop", **_given(release_id=args.release_id)}, "draining and stopping"
    )
    print_result(args, answer, f"release {answer.get('release_id')} is stopped")
    return 0


def run_restart(args: argparse.Namespace) -> int:
    request = {"command": "restart", **_given(process=args.process, policy=args.policy)}
    answer = _ask_with_progress(args, request, "restarting")
    restarted = answer.get("restarted")
    names = ", ".join(str(name) for name in restarted) if isinstance(restarted, list) else ""
    print_result(args, answer, f"restarted {names}" if names else "nothing was restarted")
    return 0


def run_reload(args: argparse.Namespace) -> int:
    answer = _ask_with_progress(args, {"command": "reload"}, "reloading")
    print_result(args, answer, "logs reopened, " + ("config adopted" if answer.get("changed") else "config unchanged"))
    return 0


def _outcome(answer: Request) -> str:
    active, previous = answer.get("active_release_id"), answer.get("previous_release_id")
    if not answer.get("changed", True):
        return f"release {active} is active already, nothing changed"
    return f"release {active} is active" + (f", it replaced {previous}" if previous not in (None, active) else "")


def _given(**fields: object) -> Request:
    return {name: value for name, value in fields.items() if value is not None}


def _ask_with_progress(args: argparse.Namespace, request: Request, doing: str = "") -> Request:
    """Return the daemon's answer, however long it takes, and show on stderr what happens meanwhile.

    ``doing`` stands there, for a person only, when the daemon tells no progress of its own.
    """
    from rollbridge.cli.progress import progress_on

    progress = progress_on(sys.stderr, os.environ)
    while True:
        try:
            return _ask_once(args, request, doing, progress)
        except AskAgain:
            continue  # it waited for its turn while the daemon went on as another version


def _ask_once(
    args: argparse.Namespace, request: Request, doing: str, progress: PlainProgress | LiveProgress
) -> Request:
    command = str(request["command"])
    with client_of(args) as client:
        # What runs long cannot have a timeout: a daemon that is stuck is found out here.
        client.request({"command": "ping"})
        try:
            if doing and sys.stderr.isatty():
                progress.show({"phase": command, "message": doing})
            return client.request(request, progress.show, timeout=None, on_tick=progress.tick)
        except KeyboardInterrupt:
            raise CliError(
                f"interrupted; the {command} goes on in the daemon. `rollbridge status` shows how it ends."
            ) from None
        finally:
            progress.close()
