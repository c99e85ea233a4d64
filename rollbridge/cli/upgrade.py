"""``upgrade``: the running daemon continues as the code that this command was run from."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rollbridge.cli.errors import REFUSED, CliError
from rollbridge.cli.output import prepare_streams, print_line, print_result
from rollbridge.cli.parser import CommandParser, Subparsers, add_command
from rollbridge.cli.session import Request, absolute_path, settings_of
from rollbridge.control.client import ControlClient, DaemonSilent, NoDaemon

if TYPE_CHECKING:
    from rollbridge.config.reach import ClientSettings

DESCRIPTION = """\
The running daemon continues as the rollbridge that this command is run from: same
pid, no process restarted, no request lost. It checks the new code first, and then
the config and the state with it; when something is wrong there, or the new code
does not come up, it goes on as it was, and this command says why. The proxy
workers are replaced; the old ones serve their connections to the end.

Only root and the daemon's own user may do this."""

# For all of it: the check, the next code's start, its first workers. Each of them is bounded in the daemon.
ANSWER_SECONDS: Final = 120.0
EXIT_SECONDS: Final = 15.0


def add_parser(subparsers: Subparsers[CommandParser]) -> None:
    parser = add_command(
        subparsers,
        "upgrade",
        run=run,
        description=DESCRIPTION,
        examples=["/srv/app/rollbridge-new.pyz -c /srv/app/rollbridge.toml upgrade"],
    )
    parser.add_argument("--wait", action="store_true", help="wait for a deploy that runs, instead of being refused")


def run(args: argparse.Namespace) -> int:
    answer = upgrade_daemon(args, settings_of(args), wait=args.wait)
    if answer.get("changed"):
        text = f"upgraded from {answer.get('previous_version')} to {answer.get('version')} (pid {answer.get('pid')})"
    else:
        text = f"the daemon (pid {answer.get('pid')}) runs this code already: rollbridge {answer.get('version')}"
    print_result(args, answer, text)
    return 0


def run_check(arguments: Sequence[str]) -> int:
    """The hidden ``_upgrade-check``: whether this code could go on as the daemon with that command line.

    Prints what it says of itself, or what is wrong, as one JSON object: whoever asks may be another version.
    """
    from dataclasses import asdict

    from rollbridge.daemon.upgrade_check import CheckFailed, examine, import_everything

    prepare_streams()
    try:
        import_everything()
        from rollbridge.cli.commands import COMMANDS
        from rollbridge.cli.dispatch import parse

        fitness = examine(parse(arguments, "daemon", COMMANDS).config)
    except CheckFailed as error:
        print_line(json.dumps({"error": str(error), "exit_code": error.exit_code}))
        return error.exit_code
    except Exception as error:
        from rollbridge.cli.failures import explain

        told = explain(error)
        print_line(json.dumps({"error": told.message, "exit_code": told.exit_code}))
        return told.exit_code
    print_line(json.dumps(asdict(fitness)))
    return 0


def take_over(args: argparse.Namespace, settings: ClientSettings) -> None:
    """Let the running daemon, if there is one, leave everything to us, who are about to start in its place.

    Raises CliError and ControlError; then it runs on as it was.
    """
    from rollbridge.daemon.upgrade_check import CheckFailed, examine, import_everything

    try:
        with ControlClient(settings.control.path, settings.control.owner) as client:
            check_application(client.request({"command": "ping"}), settings)
            try:
                import_everything()
                fitness = examine(absolute_path(args.config))
            except CheckFailed as error:
                raise CliError(f"this daemon must not take over: {error}.", error.exit_code) from error
            if client.server.uid != os.geteuid():
                raise CliError(
                    f"the daemon (pid {client.server.pid}) runs as uid {client.server.uid}, this one would run as uid "
                    f"{os.geteuid()}: it could not manage what runs. Run it as the same user.",
                    REFUSED,
                )
            client.request({"command": "give-way", "settings": dict(fitness.settings)})
            if not client.wait_closed(EXIT_SECONDS):
                raise CliError(f"the daemon (pid {client.server.pid}) gave way, but has not exited. See its log.")
    except DaemonSilent:
        raise
    except NoDaemon:
        return  # an ordinary start


def check_application(answer: Request, settings: ClientSettings) -> None:
    """Raise CliError when the daemon that gave ``answer`` is another application's."""
    if answer.get("application") != settings.application:
        raise CliError(
            f"control socket {settings.control.path} belongs to the daemon of application "
            f"{answer.get('application')}, not {settings.application}. Give each its own control.path.",
            REFUSED,
        )


def upgrade_daemon(args: argparse.Namespace, settings: ClientSettings, *, wait: bool = False) -> Request:
    """Let the running daemon continue as this code; return its answer.

    Raises CliError and ControlError, NoDaemon among them.
    """
    from rollbridge.cli.progress import progress_on
    from rollbridge.runtime import runtime_info, self_command

    ours = runtime_info()
    python, _, target = self_command()
    request: Request = {
        "command": "upgrade",
        "python": python,
        "target": target,
        "is_zipapp": ours.is_zipapp,
        "digest": ours.digest,
        "wait": wait,
    }
    progress = progress_on(sys.stderr, os.environ)
    with ControlClient(settings.control.path, settings.control.owner) as client:
        check_application(client.request({"command": "ping"}), settings)
        try:
            return client.request(request, progress.show, None if wait else ANSWER_SECONDS, progress.tick)
        except KeyboardInterrupt:
            raise CliError(
                "interrupted; the upgrade goes on in the daemon. `rollbridge status` shows which version runs."
            ) from None
        finally:
            progress.close()
