"""``demo``: the main job on an embedded app."""

from __future__ import annotations

import argparse

from rollbridge.cli.parser import CommandParser, Subparsers, add_command

DESCRIPTION = """\
Deploys an embedded sample app from a temporary directory, on free ports, under
traffic of every kind: v1, v2, a broken v3; rolls back; kills the web process.
Ends with a table. Exit code 0 only if nothing failed. Leaves nothing behind,
also when interrupted. Needs no config file."""


def add_parser(subparsers: Subparsers[CommandParser]) -> None:
    parser = add_command(
        subparsers, "demo", run=run, description=DESCRIPTION, examples=["rollbridge demo", "rollbridge demo --json"]
    )
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory: config, log, jobs")


def run(args: argparse.Namespace) -> int:
    import os
    import sys

    from rollbridge.demo.run import DemoOptions, run_demo
    from rollbridge.runtime import self_command

    options = DemoOptions(self_command(), dict(os.environ), is_json=args.json, is_kept=args.keep)
    return run_demo(options, sys.stdout, sys.stderr)
