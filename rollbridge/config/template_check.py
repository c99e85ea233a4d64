"""Checks, when the file is read, the templates that are expanded only when a process starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rollbridge.config import templates
from rollbridge.config.issues import BadValue
from rollbridge.config.model import Config, ProcessConfig
from rollbridge.config.reader import Scope
from rollbridge.config.showing import Path, show_text


def check_templates(config: Config, scope: Scope) -> None:
    """Note every placeholder of command, cwd, env and hooks that could not be expanded at a start."""
    for process in config.processes.values():
        values, absent = _sample(config, process)
        for path, text in process_templates(process):
            if scope.is_full():
                return
            for bad in templates.problems(text, values, scope.environ, absent) or _path_problems(
                path, text, values, scope.environ
            ):
                scope.note(("processes", process.id, *path), bad.message, bad.fix)


def process_templates(process: ProcessConfig) -> Iterator[tuple[Path, str]]:
    """Yield every template of ``process`` with its path below ``processes.<id>``."""
    if isinstance(process.command, str):
        yield ("command",), process.command
    else:
        for index, word in enumerate(process.command):
            yield ("command", index), word
    yield ("cwd",), process.cwd
    for text in process.env_file:
        yield ("env_file",), text
    if process.env_command is not None:
        printer = process.env_command.command
        for word in (printer,) if isinstance(printer, str) else printer:
            yield ("env_command",), word
    for name, value in process.env.items():
        yield ("env", name), value
    lifecycle = process.lifecycle
    for key in ("quiet_command", "drain_command", "stop_command"):
        hook: str | None = getattr(lifecycle, key)
        if hook is not None:
            yield ("lifecycle", key), hook


def _path_problems(path: Path, text: str, values: Mapping[str, str], environ: Mapping[str, str]) -> list[BadValue]:
    check = {"cwd": check_cwd, "env_file": check_env_file}.get(str(path[0]))
    if check is None:
        return []
    try:
        check(text, templates.expand(text, values, environ))
    except BadValue as bad:
        return [bad]
    return []


def check_cwd(template: str, expanded: str) -> None:
    """Raise BadValue for a working directory that depends on where the daemon was started."""
    if not expanded.startswith("/"):
        raise BadValue(
            f"cwd {show_text(expanded)} is a relative path",
            f"write {show_text('{{release_path}}/' + template.removeprefix('./'))} for a directory of the release, "
            f"or a path from /",
        )


def check_env_file(template: str, expanded: str) -> None:
    """Raise BadValue for a file that depends on where the daemon was started."""
    if not expanded.startswith("/"):
        raise BadValue(
            f"env_file {show_text(expanded)} is a relative path",
            f"write {show_text('{{release_path}}/' + template.removeprefix('./'))} for a file of the release, "
            f"or a path from /",
        )


def _sample(config: Config, process: ProcessConfig) -> tuple[Mapping[str, str], Mapping[str, BadValue]]:
    """Return a value for every name that will have one at a start of ``process``, and why others will not."""
    values = {
        name: "/srv/sample" if name == "release_path" else "1" for name in templates.START_NAMES if name != "port"
    }
    values["application"] = config.application
    values["proxy.host"] = config.proxy.host
    values["proxy.upstream_host"] = config.proxy.upstream_host
    absent = {}
    if process.port is not None:
        values["port"] = str(process.port.first)
    else:
        absent["port"] = BadValue(
            f"{{{{port}}}} has no value: {process.id} has no port",
            f"add port = {{ from = 18182, to = 18299 }} to [processes.{process.id}], or use {{{{ports.<id>}}}}",
        )
    for other in config.processes.values():
        if other.port is not None:
            values[f"ports.{other.id}"] = str(other.port.first)
        else:
            absent[f"ports.{other.id}"] = BadValue(
                f"{{{{ports.{other.id}}}}} has no value: {other.id} has no port",
                f"add port = 7331 to [processes.{other.id}]",
            )
    return values, absent
