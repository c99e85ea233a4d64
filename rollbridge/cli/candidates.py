"""What a completion script asks while somebody types: ids that the running daemon knows, a line each, or nothing.

Run as ``rollbridge _complete KIND [CONFIG]``. Nothing is said and the exit code is 0 whatever goes wrong: words in the
middle of a command line would be worse than none.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

TIMEOUT_SECONDS: Final = 1.0  # somebody waits with a finger on a key
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def main(arguments: Sequence[str]) -> int:
    """Print the candidates of the kind ``arguments[0]`` for the daemon of the config ``arguments[1]``."""
    from rollbridge.cli.parser import DEFAULT_CONFIG
    from rollbridge.config.issues import ConfigError
    from rollbridge.config.load import load_client_settings
    from rollbridge.control.client import ControlClient, ControlError

    kind, config = [*arguments, "", ""][:2]
    try:
        control = load_client_settings(os.path.abspath(config or DEFAULT_CONFIG), os.environ).control  # noqa: PTH100
        with ControlClient(control.path, control.owner, TIMEOUT_SECONDS) as client:
            status = client.request({"command": "status"}, timeout=TIMEOUT_SECONDS).get("result")
        if isinstance(status, dict):
            sys.stdout.write("".join(f"{one}\n" for one in candidates(kind, status)))
            sys.stdout.flush()
    except (ConfigError, ControlError, OSError, UnicodeError):
        return 0
    return 0


def candidates(kind: str, status: Mapping[str, Any]) -> list[str]:
    """Return the ids of ``kind`` (``process``, ``instance``, ``release``) in the document of ``status``.

    Nothing that a shell could take for more than a word is among them.
    """
    releases = [release for release in status.get("releases") or [] if isinstance(release, dict)]
    if kind == "release":
        found = [str(release.get("release_id")) for release in reversed(releases)]
    else:
        processes = list(_processes(status, releases))
        found = sorted({str(process.get("process_id")) for process in processes})
        if kind == "instance":
            found += sorted(str(process.get("id")) for process in processes if process.get("pid"))
        elif kind != "process":
            found = []
    return [one for one in dict.fromkeys(found) if _ID.fullmatch(one)]


def _processes(status: Mapping[str, Any], releases: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for holder in (
        *(release.get("processes") for release in releases),
        status.get("services"),
        status.get("singletons"),
    ):
        yield from (process for process in holder or [] if isinstance(process, dict))
