"""Reads ``[legacy_takeover]``."""

from __future__ import annotations

import re
import unicodedata

from rollbridge.config.issues import BadValue
from rollbridge.config.model import LegacyProcess, LegacyTakeoverConfig, ProxyConfig
from rollbridge.config.reach import absolute_path
from rollbridge.config.reader import Table
from rollbridge.config.showing import show_text, show_value
from rollbridge.config.values import duration, items, texts

# What systemd allows in the name of a unit (systemd.unit(5)); its type may be left out.
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,254}")


def read_legacy(root: Table, proxy: ProxyConfig, directory: str) -> LegacyTakeoverConfig | None:
    """Return the section, None when there is none; ``directory`` is that of the config file."""
    table = root.table("legacy_takeover", "[legacy_takeover]")
    if not isinstance(root.values.get("legacy_takeover"), dict):
        return None
    legacy = LegacyTakeoverConfig(
        screens=texts(table, "screens", '["ticket-server"]'),
        processes=_read_legacy_processes(table),
        force_stop_timeout_seconds=duration(table, "force_stop_timeout", proxy.force_stop_timeout_seconds),
        pid_files=items(table, "pid_files", '["/var/run/old-app.pid"]', lambda text: absolute_path(text, directory)),
        systemd_units=items(table, "systemd_units", '["old-app.service"]', _unit),
        supervisord_programs=items(table, "supervisord_programs", '["old-app"]', _argument),
        pm2_apps=items(table, "pm2_apps", '["old-app"]', _argument),
        commands=texts(table, "commands", '["/etc/init.d/old-app stop"]'),
    )
    table.finish()
    return legacy


def _read_legacy_processes(table: Table) -> tuple[LegacyProcess, ...]:
    example = '[{ name = "old web", includes = ["/srv/old-app/"] }]'
    value = table.raw("processes")
    if value is None:
        return ()
    if not isinstance(value, list):
        table.note("processes", f"{show_value(value)} is not an array", f"write processes = {example}")
        return ()
    found = []
    for index, item in enumerate(value):
        if table.scope.is_full():
            break
        path = (*table.path, "processes", index)
        if not isinstance(item, dict):
            table.scope.note(path, f"{show_value(item)} is not a table", f"write processes = {example}")
            continue
        one = Table(item, path, table.scope)
        for key, fix in (("name", 'add name = "old web"'), ("includes", 'add includes = ["/srv/old-app/"]')):
            if not one.has(key):
                table.scope.note(path, f"{key} is missing", fix)
        name = one.text("name", "", "old web")
        includes = texts(one, "includes", '["/srv/old-app/"]')
        if one.values.get("includes") == []:
            # An empty list of conditions is met by every process of the machine.
            one.note("includes", "the array is empty, which would match every process", 'write ["/srv/old-app/"]')
        one.finish()
        found.append(LegacyProcess(name, includes))
    return tuple(found)


def _unit(text: str) -> str:
    if not _UNIT.fullmatch(text):
        raise BadValue(f"{show_text(text)} cannot be the name of a systemd unit", 'write for example "old-app.service"')
    return text


def _argument(text: str) -> str:
    """Check a name that becomes an argument of a command; raise BadValue for what that would not take for a name."""
    if text.startswith("-"):
        raise BadValue(
            f"{show_text(text)} begins with -, as an option does", "write the name as the supervisor lists it"
        )
    if any(unicodedata.category(character) == "Cc" or character.isspace() for character in text):
        raise BadValue(f"{show_text(text)} has blanks in it", "write one name in each text")
    return text
