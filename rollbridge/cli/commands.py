"""Every command: the family that has it, and what it does in a line.

A family is a module of this package with ``add_parser(subparsers)``: it calls ``parser.add_command`` for each of its
commands, with the function to run. Such a function takes the parsed arguments (``config``: path as given, ``json``:
bool, and its own), prints its result with ``output.print_result``, returns 0 or another exit code of its own, and
raises ``CliError`` when it cannot go on. A new command needs a line here and its family, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Command(NamedTuple):
    family: str  # module of this package that has the command
    summary: str


COMMANDS: Final[Mapping[str, Command]] = {
    "daemon": Command("daemon", "run the supervisor in the foreground"),
    "ensure-daemon": Command("ensure", "start a detached daemon if none answers"),
    "deploy": Command("release", "start a release, switch the traffic, retire the old one"),
    "rollback": Command("release", "switch back to a retained release"),
    "status": Command("observe", "what is running"),
    "events": Command("observe", "what happened"),
    "logs": Command("observe", "what the processes printed"),
    "stop": Command("release", "stop the active (or a named) release; the proxy answers 503"),
    "restart": Command("release", "bounce processes other than the proxied one"),
    "reload": Command("release", "read the config again, open the logs anew"),
    "upgrade": Command("upgrade", "the running daemon continues as this file"),
    "shutdown": Command("daemon", "stop everything, then the daemon"),
    "recover": Command("takeover", "list what a daemon left, stop it, or bring everything back"),
    "predeploy-cleanup": Command("takeover", "stop what the first deploy replaces"),
    "validate": Command("configuration", "list every problem of the config file, with fixes"),
    "doctor": Command("doctor", "look at config, machine and release; what to mend, and how"),
    "config": Command("configuration", "print the effective config as TOML"),
    "init": Command("init", "write a commented config file for the application here"),
    "completion": Command("completion", "print a script that completes this command line"),
    "demo": Command("demo", "run the main job on an embedded app, under traffic"),
}
