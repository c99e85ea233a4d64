"""From the bytes of a config file to a Config, or to everything that is wrong with it. Pure."""

from __future__ import annotations

import os
from collections.abc import Mapping

# Named here so that a daemon, which reads its config before it serves, has them when it reads a broken one later.
from rollbridge.config import lines as lines
from rollbridge.config import suggest as suggest
from rollbridge.config.issues import ConfigError
from rollbridge.config.legacy_section import read_legacy
from rollbridge.config.model import (
    Config,
    ProcessConfig,
    ProxyConfig,
    RetentionConfig,
)
from rollbridge.config.process_section import ID_PATTERN, read_process
from rollbridge.config.proxy_section import read_proxy
from rollbridge.config.reach import read_reach
from rollbridge.config.reader import Table, new_scope
from rollbridge.config.report import raise_problems
from rollbridge.config.rules import check_rules
from rollbridge.config.showing import show_text, show_value
from rollbridge.config.source import decode, parse_toml
from rollbridge.config.template_check import check_templates
from rollbridge.config.values import duration

_MOST_PROCESSES = 500  # each is told the ports of all the others
_EXAMPLE_PROCESS = (
    'add [processes.web] with policy = "proxied", command = "..." and port = { from = 18182, to = 18299 }'
)


def parse_config(data: bytes, source_path: str, environ: Mapping[str, str], *, uid: int) -> Config:
    """Return the effective config; raise ConfigError with every problem.

    ``source_path`` is absolute: relative paths in the file are resolved against its directory. ``uid`` decides
    where the runtime directory is by default.
    """
    try:
        text = decode(data)
        root = Table(parse_toml(text), (), new_scope(environ))
    except ConfigError as error:
        raise ConfigError(error.issues, source_path) from None
    reach = read_reach(root, source_path, uid)
    proxy = read_proxy(root.table("proxy", "[proxy]"), os.path.dirname(source_path))  # noqa: PTH120 - as in reach.py
    retention = _read_retention(root.table("release_retention", "[release_retention]"))
    processes = _read_processes(root, proxy)
    legacy = read_legacy(root, proxy, os.path.dirname(source_path))  # noqa: PTH120
    root.finish()
    config = Config(
        source_path=source_path,
        application=reach.application,
        runtime_dir=reach.runtime_dir,
        state_path=reach.state_path,
        control=reach.control,
        proxy=proxy,
        release_retention=retention,
        processes=processes,
        legacy_takeover=legacy,
    )
    check_rules(config, root)
    check_templates(config, root.scope)
    raise_problems(root.scope.problems, text, source_path)
    return config


def _read_retention(table: Table) -> RetentionConfig:
    retention = RetentionConfig(
        keep=table.integer("keep", 10, 0, 10_000), max_age_seconds=duration(table, "max_age", 0)
    )
    table.finish()
    return retention


def _read_processes(root: Table, proxy: ProxyConfig) -> dict[str, ProcessConfig]:
    if not root.has("processes"):
        root.raw("processes")
        root.note("processes", "no process is defined", _EXAMPLE_PROCESS)
        return {}
    tables = root.table("processes", "[processes.web]")
    if not tables.values and isinstance(root.values["processes"], dict):
        root.note("processes", "no process is defined", _EXAMPLE_PROCESS)
    processes: dict[str, ProcessConfig] = {}
    for process_id, value in tables.values.items():
        if len(processes) == _MOST_PROCESSES:
            tables.note(
                process_id,
                f"there are more than {_MOST_PROCESSES} processes from here on",
                "remove some; replicas run one definition several times",
            )
            break
        if root.scope.is_full():
            break
        if not ID_PATTERN.fullmatch(process_id):
            tables.note(
                process_id,
                f"{show_text(process_id)} cannot be the id of a process",
                "use up to 64 letters, digits, '_' and '-', the first a letter or digit: [processes.web]",
            )
        elif not isinstance(value, dict):
            tables.note(
                process_id,
                f"{show_value(value)} is not a table",
                f'write a section [processes.{process_id}] with command = "..."',
            )
        else:
            processes[process_id] = read_process(tables.table(process_id, ""), process_id, proxy)
    return processes
