"""The commented config that ``init`` writes: from what was found to text; pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Final

from rollbridge.cli.sightings import ADDRESS, PORT, Found, Sighting

_LAYOUT: Final = """\
# rollbridge's config for {application}. {origin}
# `rollbridge validate` lists every mistake, `rollbridge doctor` looks at the machine, and
# `rollbridge deploy --release-path DIRECTORY --ensure-daemon` brings the first release up.

application = "{application}"

# What is to survive a reboot: which release was active. Default: in the runtime directory, which does not.
# state_path = "/var/lib/rollbridge/{application}.state.json"

# Who may deploy besides this user: members of a group.
# [control]
# mode = "660"
# group = "deploy"

[proxy]
host = "127.0.0.1"          # "0.0.0.0" to take clients from everywhere; behind nginx leave it
port = 8182                 # the stable port: what nginx, or the clients, connect to
# drain_timeout = "60s"     # how long a retired release may finish its requests
# force_stop_timeout = "10s"   # from the stop signal to SIGKILL

[processes.web]
policy = "proxied"          # the one that gets the requests; two releases of it run during a deploy
{web}
port = "18182-18299"        # a release takes a free one of these: {{{{port}}}}, or $ROLLBRIDGE_PORT
cwd = "{{{{release_path}}}}"
# Healthy is an answer of 200 to 399 to GET {health}. Better a path that asks the database as well.
health = {{ path = {health_toml}, timeout = "30s" }}
# memory = {{ limit = "512MiB", warn = "384MiB" }}
{others}"""

_OTHER: Final = """
# From {why}. A companion belongs to its release: it starts and stops with it.
[processes.{id}]
policy = "companion"        # "singleton" if never two may run at once, "service" if it survives deploys
{command}
graceful_stop = "60s"       # how long it may finish what it has; "indefinite": never killed
{quiet}"""

_WORKER: Final = """
# A worker beside it, for example:
# [processes.worker]
# command = "python worker.py"
# graceful_stop = "60s"
"""


def application_name(directory: str) -> str:
    """Return a name for the application that lives in the directory called ``directory``."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", directory).strip("-_")[:40] or "app"


def starter_config(application: str, sighting: Sighting) -> str:
    """Return the text of the config file."""
    others = "".join(_other(one) for one in sighting.others) or _WORKER
    web = sighting.web
    text = _LAYOUT.format(
        application=application,
        origin=f"Made from {web.why}." if web else "Nothing here told how it is run: change the command below.",
        web="\n".join(_command(web or _example())),
        health=sighting.health_path,
        health_toml=_toml(sighting.health_path),
        others=others,
    )
    notes = "".join(f"\n# {_visible(note)}" for note in sighting.notes)
    return f"{text.rstrip()}\n{notes}\n" if notes else f"{text.rstrip()}\n"


def _example() -> Found:
    return Found("web", ["./serve", "--host", ADDRESS, "--port", PORT], "")


def _other(found: Found) -> str:
    quiet = f"lifecycle = {{ quiet_command = {_toml(found.quiet_command)} }}\n" if found.quiet_command else ""
    return _OTHER.format(why=found.why, id=found.id, command="\n".join(_command(found)), quiet=quiet)


def _command(found: Found) -> Iterator[str]:
    if isinstance(found.command, str):
        yield f"command = {_toml(found.command)}"
    else:
        yield f"command = [{', '.join(_toml(part) for part in found.command)}]"
    if found.env:
        pairs = ", ".join(f"{name} = {_toml(value)}" for name, value in found.env.items())
        yield f"env = {{ {pairs} }}"


def _toml(text: str) -> str:
    """Return a TOML basic string: what JSON escapes, TOML understands, but for DEL, which it wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _visible(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text)


def summary(sighting: Sighting) -> Sequence[str]:
    """Return what to tell about it: a line for each process, and the notes."""
    web = sighting.web
    lines = [
        f"{web.id}: {_shown(web)} ({web.why})" if web else "nothing told how it is run: edit processes.web.command"
    ]
    lines += [f"{one.id}: {_shown(one)} ({one.why})" for one in sighting.others]
    return [*lines, *(f"note: {note}" for note in sighting.notes)]


def _shown(found: Found) -> str:
    return found.command if isinstance(found.command, str) else " ".join(found.command)
