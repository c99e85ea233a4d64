"""How a daemon is reached: its name, its directory, its socket. All that a client needs of the config.

Named tuples, not dataclasses, and no import of the whole model: every client command pays for this module.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from rollbridge.config.issues import BadValue
from rollbridge.config.reader import Table
from rollbridge.config.showing import show_text, show_value

_APPLICATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\$?")
_OCTAL = re.compile(r"(?:0o)?[0-7]{1,5}")
# sun_path has 108 bytes, the last of them a zero (unix(7)).
LONGEST_SOCKET_PATH_BYTES = 107
# The workers' sockets lie in the runtime directory: "/worker-255.sock", with a byte to spare.
_LONGEST_RUNTIME_DIR_BYTES = LONGEST_SOCKET_PATH_BYTES - 17


class ControlConfig(NamedTuple):
    """The control socket. ``owner`` and ``group`` as written (name or number), None: the daemon's."""

    path: str
    mode: int
    owner: str | None
    group: str | None


class ClientSettings(NamedTuple):
    """What a client command needs to find the daemon and to know it when it answers."""

    application: str
    runtime_dir: str
    state_path: str
    control: ControlConfig


def read_reach(root: Table, source_path: str, uid: int) -> ClientSettings:
    """Read ``application``, ``runtime_dir``, ``state_path`` and ``[control]``; problems are noted in the scope."""
    directory = os.path.dirname(source_path)  # noqa: PTH120 - pathlib costs as much as all of this
    application = _read_application(root, directory)
    root.scope.values["application"] = application
    runtime_dir = _read_path(
        root,
        "runtime_dir",
        _default_runtime_dir(application, root.scope.environ.get("XDG_RUNTIME_DIR"), uid),
        directory,
    )
    if len(os.fsencode(runtime_dir)) > _LONGEST_RUNTIME_DIR_BYTES:
        root.note(
            "runtime_dir",
            f"{show_text(runtime_dir)} has over {_LONGEST_RUNTIME_DIR_BYTES} bytes: too long for the sockets in it",
            f'choose a shorter path, for example runtime_dir = "/run/rollbridge/{application[:20]}"',
        )
    state_path = _read_path(root, "state_path", f"{runtime_dir}/state.json", directory)
    control = _read_control(root.table("control", 'mode = "660" below [control]'), application, directory)
    return ClientSettings(application, runtime_dir, state_path, control)


def _read_application(root: Table, directory: str) -> str:
    if root.has("application"):
        return root.parsed("application", "application", "ticket-server", _application_name)
    root.raw("application")
    name = os.path.basename(directory)  # noqa: PTH119 - see above
    if _APPLICATION.fullmatch(name):
        return name
    root.note(
        "application",
        f"the name of the config's directory, {show_text(name)}, cannot name the application",
        'add a line at the top of the file: application = "my-app"',
    )
    return "application"


def _application_name(text: str) -> str:
    if not _APPLICATION.fullmatch(text):
        raise BadValue(
            f"{show_text(text)} cannot be part of file names",
            "use up to 64 letters, digits, '.', '_' and '-', the first a letter or digit: \"ticket-server\"",
        )
    return text


def _default_runtime_dir(application: str, xdg_runtime_dir: str | None, uid: int) -> str:
    if uid == 0:
        return f"/run/rollbridge/{application}"
    # Others' directories are not ours to use, and the XDG specification has us ignore relative ones.
    if xdg_runtime_dir and xdg_runtime_dir.startswith("/"):
        return os.path.normpath(f"{xdg_runtime_dir}/rollbridge/{application}")
    return f"/tmp/rollbridge-{uid}/{application}"


def _read_path(table: Table, key: str, default: str, directory: str) -> str:
    return table.parsed(key, default, default, lambda text: absolute_path(text, directory))


def absolute_path(text: str, directory: str) -> str:
    """Return the path ``text``, relative to the ``directory`` of the config file; raise BadValue for ``~``."""
    if text.startswith("~"):
        raise BadValue(f"{show_text(text)} begins with ~, which is not expanded", 'write "{{env.HOME}}/..." instead')
    return os.path.normpath(os.path.join(directory, text))  # noqa: PTH118 - see above


def _read_control(table: Table, application: str, directory: str) -> ControlConfig:
    path = _read_path(table, "path", f"/tmp/rollbridge-{application}.sock", directory)
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH_BYTES:
        table.note(
            "path",
            f"{show_text(path)} has more than {LONGEST_SOCKET_PATH_BYTES} bytes, the most a Unix socket can have",
            f'choose a shorter path: path = "/tmp/rollbridge-{application[:20]}.sock"',
        )
    control = ControlConfig(path, _read_mode(table), read_account(table, "owner"), read_account(table, "group"))
    table.finish()
    return control


def _read_mode(table: Table) -> int:
    value = table.raw("mode")
    if isinstance(value, int) and not isinstance(value, bool):
        table.note("mode", f"{show_value(value)} is a number, not octal text", 'write it in quotes: mode = "660"')
        return 0o600
    return table.parsed("mode", 0o600, "660", _mode)


def _mode(text: str) -> int:
    if not _OCTAL.fullmatch(text):
        raise BadValue(f"{show_text(text)} is not an octal mode", 'write mode = "600" or mode = "660"')
    mode = int(text.removeprefix("0o"), 8)
    if mode > 0o777:
        raise BadValue(f"mode {show_text(text)} has bits above 777", 'write mode = "600" or mode = "660"')
    if mode & 0o600 != 0o600:
        raise BadValue(f"mode {show_text(text)} keeps the owner from the socket", 'write mode = "600" or mode = "660"')
    if mode & 0o002:
        raise BadValue(
            f"mode {show_text(text)} lets every user of the machine control the application",
            'write mode = "660" and set control.group to a group of those who may',
        )
    return mode


def read_account(table: Table, key: str) -> str | None:
    """Return a user or group as it is written, a name or a number; None when it is absent."""
    value = table.raw(key)
    if isinstance(value, int) and not isinstance(value, bool):
        number = table.as_integer(key, value, None, 0, 2**32 - 2)
        return None if number is None else str(number)
    return table.parsed(key, None, "deploy", account)


def account(text: str) -> str:
    """Return ``text`` when it can name a user or a group; raise BadValue."""
    if not _ACCOUNT.fullmatch(text):
        raise BadValue(f"{show_text(text)} is not a name or number of an account", 'write for example "deploy" or 1000')
    return text
