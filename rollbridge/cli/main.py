"""The command line's entry: imports nothing that the command at hand does without."""

from __future__ import annotations

import os
import sys

from rollbridge import __version__

TYPE_CHECKING = False  # as in typing, whose import costs more than all that --version does
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["_proxy-worker"]:  # run by the daemon only; not for people, so not listed
        from rollbridge.proxy.worker import main as run_worker

        return run_worker(arguments[1:])
    if arguments[:1] == ["_upgrade-check"]:  # by the daemon that is asked to go on as this code
        from rollbridge.cli.upgrade import run_check

        return run_check(arguments[1:])
    if arguments[:1] == ["daemon"] and "ROLLBRIDGE_HANDOVER" in os.environ:  # by the daemon that goes on as this code
        from rollbridge.cli.daemon import run_continued

        return run_continued(arguments)
    if arguments[:1] == ["_complete"]:  # by the scripts of `completion`, at every press of the key
        from rollbridge.cli.candidates import main as print_candidates

        return print_candidates(arguments[1:])
    if arguments[:1] == ["_demo-app"]:  # these two by the config that `demo` writes
        from rollbridge.demo.app import main as run_demo_app

        return run_demo_app(arguments[1:])
    if arguments[:1] == ["_demo-worker"]:
        from rollbridge.demo.jobs import main as run_demo_worker

        return run_demo_worker(arguments[1:])
    if arguments == ["--version"] and sys.stdout is not None:
        try:
            print(f"rollbridge {__version__}", flush=True)
            return 0
        except OSError:
            pass  # dispatch says it in a sentence
    from rollbridge.cli.commands import COMMANDS
    from rollbridge.cli.dispatch import run_command

    return run_command(arguments, COMMANDS)
