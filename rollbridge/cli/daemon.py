"""``daemon`` and ``shutdown``: the supervisor's first and last word."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING

from rollbridge.cli.errors import CliError, UsageError
from rollbridge.cli.output import print_note, print_result
from rollbridge.cli.parser import CommandParser, Subparsers, add_command
from rollbridge.cli.session import absolute_path, client_of, settings_of

if TYPE_CHECKING:
    from rollbridge.daemon.handover import Continuation

DAEMON = """\
Runs the supervisor in the foreground, for systemd, a container, or to watch it;
`ensure-daemon` starts one in the background. With --release-path it first brings
up that release, with --resume the one that was active last; the control socket
appears when that is done. With --takeover a daemon that runs hands over to
this one, as it does to the next after a crash: everything runs on. Events go to stderr, one JSON object a line. SIGTERM
and SIGINT shut it down as `shutdown` does, SIGHUP reloads as `reload` does."""

SHUTDOWN = """\
Stops every process, then the daemon, and answers when all of it is gone: the
processes, the sockets, the daemon itself. Requests in flight are finished first,
within the configured timeouts."""

# After its answer the daemon has only to close files; a machine that swaps may take a while for that.
EXIT_SECONDS = 15.0
_ATTESTATION = re.compile(r"sha256:[0-9a-f]{64}")


def add_parser(subparsers: Subparsers[CommandParser]) -> None:
    daemon = add_command(
        subparsers,
        "daemon",
        run=run_foreground,
        description=DAEMON,
        examples=[
            "rollbridge -c /etc/ticket-server.toml daemon --resume",
            "rollbridge daemon --release-path /srv/app/releases/r42 --release-id r42",
        ],
    )
    daemon.add_argument("--release-path", metavar="PATH", help="bring up the release in this directory first")
    daemon.add_argument("--release-id", metavar="ID", help="its name (default: the name of the directory)")
    daemon.add_argument("--revision", metavar="REV", help="what it was built from (default: the release id)")
    daemon.add_argument(
        "--boot-attestation", metavar="DIGEST", help="sha256:... that status shows, to tell this start from others"
    )
    daemon.add_argument("--resume", action="store_true", help="bring up the release that was active last")
    daemon.add_argument(
        "--takeover", action="store_true", help="let a daemon that runs hand over to this one; nothing is restarted"
    )
    daemon.add_argument("--daemon-pid-path", metavar="PATH", help="write the daemon's pid to this file while it runs")
    add_command(subparsers, "shutdown", run=run_shutdown, description=SHUTDOWN, examples=["rollbridge shutdown"])


def run_foreground(args: argparse.Namespace) -> int:
    _check_bootstrap(args)
    if args.takeover:
        from rollbridge.cli.upgrade import take_over

        take_over(args, settings_of(args))
    return _run_daemon(args, None)


def run_continued(arguments: list[str]) -> int:
    """Run the daemon that this process has been already, as other code; ``arguments`` are those of ``daemon``.

    Whatever goes wrong before it is up, down to a command line that this code does not understand: the code before
    us goes on.
    """
    from rollbridge.cli.commands import COMMANDS
    from rollbridge.cli.dispatch import parse, report
    from rollbridge.cli.failures import explain
    from rollbridge.cli.output import prepare_streams
    from rollbridge.daemon.handover import Continuation, receive

    prepare_streams()
    handover = receive()
    assert handover is not None, "asked only when there is one"
    continuation = Continuation(handover)
    try:
        return _run_daemon(parse(arguments, "daemon", COMMANDS), continuation)
    except BaseException as error:
        told = explain(error) if isinstance(error, Exception) else CliError(f"ended by {type(error).__name__}.")
        if continuation.can_go_back:
            continuation.go_back(told.message)
        return report(told, arguments)


def _run_daemon(args: argparse.Namespace, continuation: Continuation | None) -> int:
    from rollbridge.daemon.errors import DaemonFailed
    from rollbridge.daemon.main import run_daemon
    from rollbridge.daemon.options import DaemonOptions

    options = DaemonOptions(
        release_path=absolute_path(args.release_path) if args.release_path is not None else None,
        release_id=args.release_id,
        revision=args.revision,
        boot_attestation=args.boot_attestation,
        resume=args.resume,
        pid_path=absolute_path(args.daemon_pid_path) if args.daemon_pid_path is not None else None,
    )
    try:
        return run_daemon(absolute_path(args.config), options, continuation)
    except DaemonFailed as error:
        data = {"lines": list(error.lines), "process": error.process} if error.lines else {}
        raise CliError(str(error), error.exit_code, data) from error


def _check_bootstrap(args: argparse.Namespace) -> None:
    """Raise UsageError for options that mean nothing together."""
    if args.release_path is None:
        for option in ("release_id", "revision", "boot_attestation"):
            if getattr(args, option) is not None:
                raise UsageError(f"--{option.replace('_', '-')} needs --release-path. See `rollbridge daemon --help`.")
    elif args.resume:
        raise UsageError("--resume and --release-path exclude each other: which release is meant?")
    if args.boot_attestation is not None and not _ATTESTATION.fullmatch(args.boot_attestation):
        raise UsageError("--boot-attestation must be sha256: and 64 hexadecimal digits in lower case.")


def run_shutdown(args: argparse.Namespace) -> int:
    from rollbridge.cli.progress import progress_on

    progress = progress_on(sys.stderr, os.environ)
    with client_of(args) as client:
        client.request({"command": "ping"})
        try:
            if sys.stderr.isatty():
                progress.show({"phase": "shutdown", "message": "stopping everything"})
            answer = client.request({"command": "shutdown"}, progress.show, timeout=None, on_tick=progress.tick)
        except KeyboardInterrupt:
            raise CliError("interrupted; the shutdown goes on in the daemon.") from None
        finally:
            progress.close()
        if not client.wait_closed(EXIT_SECONDS):
            raise CliError(
                f"everything is stopped, but the daemon (pid {client.server.pid}) has not exited within "
                f"{EXIT_SECONDS:g} s. See its log; `kill -9 {client.server.pid}` ends it."
            )
    if answer.get("state_error"):
        print_note(
            f"rollbridge: the state file could not be written ({answer['state_error']}), so `recover --heal` does not "
            f"know that this was meant, and will bring back what was shut down. Make room, and take it out of the "
            f"crontab."
        )
    print_result(args, answer, f"shut down (daemon pid {client.server.pid})")
    return 0
