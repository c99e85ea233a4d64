"""``status``, ``events``, ``logs``: what is running, what happened, what it printed."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rollbridge.cli.errors import DONE
from rollbridge.cli.output import print_line, print_note
from rollbridge.cli.parser import CommandParser, Subparsers, add_command
from rollbridge.cli.session import Request, ask, settings_of, watch
from rollbridge.control.client import AskAgain

if TYPE_CHECKING:
    import re

    from rollbridge.cli.log_choice import Choice

WIDTH = 80

STATUS = """\
Shows the daemon, the proxy, every release with its connections, every process,
what is waited for and until when, and why the last deploy failed, if it did. A
terminal gets colours, unless NO_COLOR is set. --json prints the whole document,
with children, ports and last output lines; with --watch one object a line."""

EVENTS = """\
Prints what happened, oldest first: deploys, starts, exits, restarts, who asked
for what. The daemon keeps the last 1000 events. With --json and --follow, one
object a line."""

LOGS = """\
Prints the last output of the processes, in the order in which it came; each line
has its time and its process, and ! instead of | when it came on stderr. With
--json and --follow, one object a line.

When no daemon answers, prints what lies in the output files, without times."""


def add_parser(subparsers: Subparsers[CommandParser]) -> None:
    status = add_command(
        subparsers,
        "status",
        run=run_status,
        description=STATUS,
        examples=["rollbridge status", "rollbridge status --watch"],
    )
    status.add_argument("--watch", action="store_true", help="draw it again every second, until Ctrl-C")

    events = add_command(
        subparsers,
        "events",
        run=run_events,
        description=EVENTS,
        examples=["rollbridge events --limit 20", "rollbridge events -f --json"],
    )
    events.add_argument("--limit", metavar="N", type=count, default=100, help="how many (default: 100)")
    events.add_argument("-f", "--follow", action="store_true", help="go on with what happens from now on")

    logs = add_command(
        subparsers,
        "logs",
        run=run_logs,
        description=LOGS,
        examples=["rollbridge logs --process web --lines 50", "rollbridge logs -f --since 10m --grep ERROR"],
    )
    logs.add_argument("--process", metavar="ID", help="only this process: its id in the config, or one in status")
    logs.add_argument("--lines", metavar="N", type=count, default=100, help="how many (default: 100)")
    logs.add_argument("--since", metavar="TIME", type=moment, help='not older: "5m" ago, or "2026-11-21T01:02" (UTC)')
    logs.add_argument("--grep", metavar="PATTERN", type=pattern, help="only lines in which this regular expression is")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is printed from now on")


def count(text: str) -> int:
    """Return a whole number of at least 0, for argparse."""
    if not text.isdecimal() or not text.isascii() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number of 0 or more")
    return int(text)


def pattern(text: str) -> re.Pattern[str]:
    """Return a regular expression, for argparse."""
    import re

    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no regular expression: {error}") from error


def moment(text: str) -> float:
    """Return seconds since the epoch: so long ago, or at that time, for argparse."""
    from rollbridge.cli.log_choice import seconds_of
    from rollbridge.config.issues import BadValue
    from rollbridge.config.units import parse_duration

    at = seconds_of(text) if "-" in text else None
    if at is not None:
        return at
    try:
        return time.time() - parse_duration(text)
    except BadValue as bad:
        raise argparse.ArgumentTypeError(f"{bad.message}; {bad.fix}, or a time such as 2026-11-21T01:02") from bad


def run_status(args: argparse.Namespace) -> int:
    if args.watch and not args.json:
        from rollbridge.cli.screen import watch_page

        watch_page(lambda columns: _page_or_reason(args, columns), _coloured)
        return DONE
    try:
        _print_status(args)
        while args.watch:
            from rollbridge.cli.screen import INTERVAL_SECONDS

            time.sleep(INTERVAL_SECONDS)
            _print_status(args)
    except KeyboardInterrupt:
        if not args.watch:
            raise
    return DONE


def _print_status(args: argparse.Namespace) -> None:
    document = _status_of(args)
    if args.json:
        print_line(json.dumps(document))
    else:
        from rollbridge.cli.render import render_status  # here and below: not for --json, nor without a daemon
        from rollbridge.cli.screen import size_of

        width = size_of(sys.stdout)[0] if sys.stdout.isatty() else WIDTH
        print_line(_coloured(render_status(document, time.time(), width)))


def _status_of(args: argparse.Namespace) -> Request:
    status = ask(args, {"command": "status"}).get("result")
    return status if isinstance(status, dict) else {}


def _page_or_reason(args: argparse.Namespace, columns: int) -> str:
    """Return the page; without a daemon the reason, since to see it come back is what one watches for."""
    from rollbridge.cli.render import render_status
    from rollbridge.control.client import NoDaemon

    try:
        return render_status(_status_of(args), time.time(), columns - 1)
    except NoDaemon as error:
        return "\n".join(textwrap.wrap(error.message, columns - 1))


def _coloured(page: str) -> str:
    from rollbridge.cli.colours import is_coloured, paint

    return paint(page) if is_coloured(sys.stdout.isatty(), os.environ) else page


def run_events(args: argparse.Namespace) -> int:
    request: Request = {"command": "events", "limit": args.limit}
    return _print_all(args, request, "events", "event")


def run_logs(args: argparse.Namespace) -> int:
    from rollbridge.cli.log_choice import ALL_LINES, Choice
    from rollbridge.control.client import NoDaemon

    choice = Choice(args.since, args.grep, args.lines)
    # What does not come from now on is chosen from all there is, then counted.
    lines = ALL_LINES if choice.is_choosing and not args.follow else args.lines
    request: Request = {"command": "logs", "lines": lines}
    if args.process is not None:
        request["process"] = args.process
    try:
        return _print_all(args, request, "logs", "log", choice)
    except NoDaemon as error:
        entries = None if args.follow else _logs_of_files(args)
        if entries is None:
            raise
        print_note(f"rollbridge: {error.message}")
        print_note("rollbridge: these are the ends of the output files, a process after the other, without times.")
        _print_items(args, "logs", "log", choice.of(entries))
        return DONE


def _logs_of_files(args: argparse.Namespace) -> Sequence[Mapping[str, object]] | None:
    """Return what the output files hold; None when there are none, or when they are not ours to read."""
    from rollbridge.cli.log_choice import lines_of_files

    directory = os.path.join(settings_of(args).runtime_dir, "output")  # noqa: PTH118
    try:
        return lines_of_files(directory, args.process, args.since) or None
    except OSError:
        return None


def _print_all(args: argparse.Namespace, request: Request, many: str, one: str, choice: Choice | None = None) -> int:
    """Print what there is under ``many`` of the answer; with ``--follow`` what comes under ``one``, until the end."""
    if args.follow:

        def show(report: Request) -> None:
            item = report.get(one)
            if isinstance(item, dict) and (choice is None or choice.has(item)):
                print_line(json.dumps(item) if args.json else _rendered(one, item))

        request = {**request, "follow": True}
        try:
            while True:
                try:
                    watch(args, request, show)
                    break
                except AskAgain:
                    request["resume"] = True  # the daemon goes on as another version, and we with what came since
        except KeyboardInterrupt:
            return DONE  # the usual way to end this
        print_note("rollbridge: the daemon has shut down.")
        return DONE
    items = ask(args, request).get(many)
    found = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    _print_items(args, many, one, choice.of(found) if choice else found)
    return DONE


def _print_items(args: argparse.Namespace, many: str, one: str, items: Sequence[Mapping[str, object]]) -> None:
    if args.json:
        print_line(json.dumps({many: items}))
    elif items:
        print_line("\n".join(_rendered(one, item) for item in items))


def _rendered(kind: str, item: Mapping[str, object]) -> str:
    from rollbridge.cli.colours import is_coloured
    from rollbridge.cli.log_choice import colour_of
    from rollbridge.cli.render import render_event, render_log

    if kind == "event":
        return render_event(item)
    is_bright = is_coloured(sys.stdout.isatty(), os.environ)
    return render_log(item, colour_of(str(item.get("process"))) if is_bright else "")
