"""``ensure-daemon``: a daemon that answers, started if need be, exactly one however many ask at once."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from rollbridge.cli.errors import FAILED, NO_DAEMON, REFUSED, USAGE, CliError
from rollbridge.cli.output import print_result
from rollbridge.cli.parser import CommandParser, Subparsers, add_command
from rollbridge.cli.session import Request, absolute_path, settings_of
from rollbridge.cli.upgrade import check_application, upgrade_daemon
from rollbridge.control.client import ControlClient, DaemonSilent, NoDaemon

if TYPE_CHECKING:
    import subprocess

    from rollbridge.config.reach import ClientSettings

DESCRIPTION = """\
Starts a detached daemon if none answers, and returns when it answers; says so and
does nothing when one does. It runs from a private copy of this file, so replacing
or deleting the file does not touch it (an installed package runs in place). A
daemon that runs other code than this is refused, or with --upgrade continues as
this code: nothing is restarted."""

START_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02
_SHOWN_LOG_LINES: Final = 20
_READ_LOG_BYTES: Final = 65536


class Running(NamedTuple):
    """The daemon that answers."""

    answer: Request  # of its ping
    is_started: bool  # by us, just now
    log_path: str | None
    is_upgraded: bool = False  # it ran other code, and runs ours now


def add_parser(subparsers: Subparsers[CommandParser]) -> None:
    parser = add_command(
        subparsers,
        "ensure-daemon",
        run=run,
        description=DESCRIPTION,
        examples=[
            "rollbridge ensure-daemon",
            "rollbridge ensure-daemon --resume --daemon-log-path /var/log/ticket-server.log",
        ],
    )
    parser.add_argument(
        "--resume", action="store_true", help="a started daemon first brings up the release that was active last"
    )
    add_ensure_options(parser)


def add_ensure_options(parser: CommandParser) -> None:
    """Add the options of a start to ``parser``; None when they are not given."""
    parser.add_argument(
        "--daemon-log-path", metavar="PATH", help="where a started daemon logs (default: daemon.log in runtime_dir)"
    )
    parser.add_argument("--daemon-pid-path", metavar="PATH", help="its pid file (default: daemon.pid in runtime_dir)")
    parser.add_argument(
        "--daemon-start-timeout",
        metavar="TIME",
        type=_duration,
        help=f"how long it may take to answer (default: {START_SECONDS:g}s)",
    )

    parser.add_argument(
        "--upgrade", action="store_true", help="let a daemon that runs other code continue as this file"
    )


def _duration(text: str) -> float:
    from rollbridge.config.issues import BadValue
    from rollbridge.config.units import parse_duration

    try:
        return parse_duration(text)
    except BadValue as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    running = ensure_daemon(args)
    pid = running.answer.get("pid")
    done = {"started": running.is_started, "upgraded": running.is_upgraded}
    result: Request = {**running.answer, "status": "success", **done}
    if running.is_started:
        result["log_path"] = running.log_path
        print_result(args, result, f"daemon started (pid {pid}), it logs to {running.log_path}")
    else:
        how = f"was upgraded to {running.answer.get('version')}" if running.is_upgraded else "runs already"
        print_result(args, result, f"daemon {how} (pid {pid})")
    return 0


def ensure_daemon(args: argparse.Namespace) -> Running:
    """Return the daemon of ``args.config``, started when none answers.

    Raises CliError when it does not start or runs other code, ConfigError when the config file has problems.
    """
    settings = settings_of(args)
    answer = _ping(settings)
    if answer is not None:
        return _found(args, answer, settings)
    from rollbridge.config.load import load_config
    from rollbridge.daemon.runtime_dir import RuntimeDirError, prepare_runtime_dir

    load_config(absolute_path(args.config), os.environ)  # its problems are told here, not in a log
    try:
        prepare_runtime_dir(settings.runtime_dir)
    except RuntimeDirError as error:
        raise CliError(str(error)) from error
    timeout = START_SECONDS if args.daemon_start_timeout is None else args.daemon_start_timeout
    with _alone(os.path.join(settings.runtime_dir, "ensure.lock"), timeout):  # noqa: PTH118
        answer = _ping(settings)  # somebody else was faster
        if answer is not None:
            return _found(args, answer, settings)
        return _start(args, settings, timeout)


def _ping(settings: ClientSettings) -> Request | None:
    """Return the daemon's answer, None when there is no daemon; one that is stuck is not none."""
    try:
        with ControlClient(settings.control.path, settings.control.owner) as client:
            return client.request({"command": "ping"})
    except DaemonSilent:
        raise
    except NoDaemon:
        return None


def _found(args: argparse.Namespace, answer: Request, settings: ClientSettings) -> Running:
    """Return the daemon that gave ``answer``, upgraded if it runs other code and that is asked for."""
    from rollbridge.runtime import runtime_info

    check_application(answer, settings)
    is_upgraded = bool(args.upgrade) and answer.get("digest") != runtime_info().digest
    if is_upgraded:
        upgrade_daemon(args, settings)
        answer = _ping(settings) or {}
    return Running(_same_code(answer, settings), is_started=False, log_path=None, is_upgraded=is_upgraded)


def _same_code(answer: Request, settings: ClientSettings) -> Request:
    """Return ``answer`` when the daemon that gave it is the one we would start; raise CliError otherwise."""
    from rollbridge.runtime import runtime_info

    check_application(answer, settings)
    ours = runtime_info()
    if answer.get("digest") != ours.digest:
        raise CliError(
            f"the daemon (pid {answer.get('pid')}, version {answer.get('version')}) runs other code than this "
            f"rollbridge {ours.version}. Run `rollbridge upgrade` from this file, or this with --upgrade: nothing is "
            f"restarted.",
            REFUSED,
        )
    return answer


@contextlib.contextmanager
def _alone(path: str, timeout: float) -> Iterator[None]:
    """Hold the lock at ``path``; it is given back by the kernel however this process ends."""
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise CliError(f"lock {path} cannot be used: {error.strerror}. Mend that, or change runtime_dir.") from error
    try:
        # A start may take the whole timeout and end well; whoever waits behind it waits a little longer.
        deadline = time.monotonic() + timeout + 1
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CliError(
                        f"another command is starting the daemon and holds {path}. Try again in a moment.", REFUSED
                    ) from None
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _start(args: argparse.Namespace, settings: ClientSettings, timeout: float) -> Running:
    log_path = absolute_path(args.daemon_log_path or os.path.join(settings.runtime_dir, "daemon.log"))  # noqa: PTH118
    pid_path = absolute_path(args.daemon_pid_path or os.path.join(settings.runtime_dir, "daemon.pid"))  # noqa: PTH118
    command = [
        *_daemon_command(settings),
        "daemon",
        "--config",
        absolute_path(args.config),
        "--daemon-pid-path",
        pid_path,
        *(["--resume"] if getattr(args, "resume", False) else []),  # not an option of the other commands that start one
    ]
    try:
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise CliError(
            f"the daemon's log {log_path} cannot be written: {error.strerror}. Choose another --daemon-log-path."
        ) from error
    try:
        log_start = os.fstat(log).st_size
        process = _detached(command, log)
    finally:
        os.close(log)
    answer = _until_it_answers(process, settings, timeout, _Log(log_path, log_start))
    return Running(_same_code(answer, settings), answer.get("pid") == process.pid, log_path)


def _daemon_command(settings: ClientSettings) -> list[str]:
    from rollbridge.runtime import UnsafeDirectory, lasting_command

    try:
        return list(lasting_command(settings.runtime_dir).argv)
    except UnsafeDirectory as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(
            f"this file cannot be copied to {settings.runtime_dir}, where the daemon is to run from: "
            f"{error.strerror}. Make room, or change runtime_dir."
        ) from error


def _detached(command: list[str], log: int) -> subprocess.Popen[bytes]:
    import subprocess

    from rollbridge.config.launch import FOR_THE_SUPERVISOR_ALONE

    # The daemon is not what the service manager knows by these, should this command run in a unit.
    own = {name: value for name, value in os.environ.items() if name not in FOR_THE_SUPERVISOR_ALONE}
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",  # keeps no directory busy, and no release alive
            # Started from inside a managed process, it belongs to none: it is not to end with that one.
            env={**own, "ROLLBRIDGE_INSTANCE": "detached"},
            start_new_session=True,
        )
    except OSError as error:
        raise CliError(f"the daemon cannot be started: {command[0]}: {error.strerror}.") from error


class _Log(NamedTuple):
    """The daemon's log, and where this start's part of it begins."""

    path: str
    start: int

    def lines(self) -> list[str]:
        """Return the last lines since the start; none when the file is gone or cannot be read."""
        try:
            with open(self.path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(min(self.start, size), size - _READ_LOG_BYTES))
                text = file.read(_READ_LOG_BYTES).decode("utf-8", "replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-_SHOWN_LOG_LINES:]


def _until_it_answers(process: subprocess.Popen[bytes], settings: ClientSettings, timeout: float, log: _Log) -> Request:
    """Return the answer of the new daemon, or of one that somebody else started in this very moment."""
    deadline = time.monotonic() + timeout
    try:
        while True:
            exit_code = process.poll()
            answer = _ping(settings)
            if answer is not None:
                return answer
            if exit_code is not None:
                raise _did_not_start(exit_code, log)
            if time.monotonic() > deadline:
                raise CliError(
                    f"the daemon (pid {process.pid}) was started, but did not answer within {timeout:g} s. It goes on "
                    f"starting; see {log.path}.",
                    NO_DAEMON,
                    {"log_path": log.path, "lines": log.lines(), "process": f"the daemon ({log.path})"},
                )
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        raise CliError(
            f"interrupted; the daemon (pid {process.pid}) goes on starting. It logs to {log.path}."
        ) from None


def _did_not_start(exit_code: int, log: _Log) -> CliError:
    lines = log.lines()
    own_words = [line.removeprefix("rollbridge: ") for line in lines if line.startswith("rollbridge: ")]
    how = f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"
    reason = own_words[-1] if own_words else f"it ended with {how}; see {log.path}."
    return CliError(
        f"the daemon did not start: {reason}",
        exit_code if exit_code in (USAGE, REFUSED) else FAILED,
        {"log_path": log.path, "lines": lines, "process": f"the daemon ({log.path})"},
    )
