"""From a process's definition and a release to what is executed: templates expanded, environment complete."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from rollbridge.config import templates
from rollbridge.config.issues import BadValue, ConfigError, ConfigIssue
from rollbridge.config.model import EnvFile, EnvSources, Launch, LaunchContext, LifecycleConfig, ProcessConfig
from rollbridge.config.rules import port_variable
from rollbridge.config.showing import escape, show_text
from rollbridge.config.template_check import check_cwd, check_env_file

_IDENTITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
# What a shell takes literally wherever it stands; beside these, printable characters beyond ASCII are plain to it.
_PLAIN_IN_A_SHELL = re.compile(r"[A-Za-z0-9_@%+=:,./-]")
# Addressed to the supervisor by the service manager: a process that found them would answer in its place.
FOR_THE_SUPERVISOR_ALONE = frozenset(
    ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "MAINPID")
)
_OUR_PREFIX = "ROLLBRIDGE_"


class TemplateError(ConfigError):
    """A process cannot be started as it is defined: a template has no value, or one unfit for a shell."""

    def __init__(self, where: str, message: str, fix: str) -> None:
        super().__init__((ConfigIssue(where, message, fix),))
        self.where = where
        self.message = message
        self.fix = fix


def resolve_launch(process: ProcessConfig, context: LaunchContext) -> Launch:
    """Return what to execute for one replica; raise TemplateError, naming the setting, when that cannot be told."""
    values = _values(context)

    def expand(key: str, text: str, check: Callable[[str, str], None] | None = None) -> str:
        try:
            if check:
                check(text, context.release_path)
            return templates.expand(text, values, context.environ)
        except BadValue as bad:
            raise TemplateError(f"processes.{process.id}.{key}", bad.message, bad.fix) from bad

    def words(key: str, command: str | tuple[str, ...]) -> tuple[str, ...]:
        if isinstance(command, str):
            return ("/bin/sh", "-c", expand(key, command, _check_shell_command))
        return tuple(expand(f"{key}[{index}]", word) for index, word in enumerate(command))

    argv = words("command", process.command)
    cwd = expand("cwd", process.cwd)
    try:
        check_cwd(process.cwd, cwd)
    except BadValue as bad:
        raise TemplateError(f"processes.{process.id}.cwd", bad.message, bad.fix) from bad

    def hook(key: str, text: str | None) -> str | None:
        return None if text is None else expand(f"lifecycle.{key}", text, _check_hook)

    lifecycle = LifecycleConfig(
        quiet_command=hook("quiet_command", process.lifecycle.quiet_command),
        drain_command=hook("drain_command", process.lifecycle.drain_command),
        stop_command=hook("stop_command", process.lifecycle.stop_command),
        drain_timeout_seconds=process.lifecycle.drain_timeout_seconds,
    )
    own = {name: expand(f"env.{name}", value) for name, value in process.env.items()}
    command = process.env_command
    sources = EnvSources(
        files=tuple(_env_file(process, template, expand("env_file", template)) for template in process.env_file),
        command=None if command is None else words("env_command", command.command),
        command_timeout_seconds=0.0 if command is None else command.timeout_seconds,
        own=own,
    )
    return Launch(
        argv=argv,
        cwd=cwd,
        env={**_inherited(context.environ), **_injected(context), **own},
        lifecycle=lifecycle,
        # The user's HOME and the like are found at the start, too.
        env_sources=sources if sources.files or sources.command or process.permissions.user else None,
    )


def _env_file(process: ProcessConfig, template: str, expanded: str) -> EnvFile:
    path = expanded.removesuffix("?")
    try:
        check_env_file(template, path)
    except BadValue as bad:
        raise TemplateError(f"processes.{process.id}.env_file", bad.message, bad.fix) from bad
    return EnvFile(path, is_optional=template.endswith("?"))


def check_release_identity(release_id: str, revision: str) -> tuple[ConfigIssue, ...]:
    """Return what is wrong with the names of a release: they become file names and words of a shell command."""
    return tuple(
        ConfigIssue(
            where,
            f"{what} {show_text(text)} is not a letter or digit followed by letters, digits, '.', '_' and '-'",
            f"give another --{where.replace('_', '-')}, at most 200 characters, for example 2024-05-17.1 or v1.4.2",
        )
        for where, what, text in (("release_id", "release id", release_id), ("revision", "revision", revision))
        if not _IDENTITY.fullmatch(text)
    )


def _values(context: LaunchContext) -> dict[str, str]:
    values = {
        "application": context.application,
        "release_id": context.release_id,
        "release_path": context.release_path,
        "revision": context.revision,
        "process_id": context.process_id,
        "replica_index": str(context.replica_index),
        "replica_count": str(context.replica_count),
        "proxy.host": context.proxy_host,
        "proxy.port": str(context.proxy_port),
        "proxy.upstream_host": context.proxy_upstream_host,
    }
    if context.port is not None:
        values["port"] = str(context.port)
    values.update({f"ports.{process_id}": str(port) for process_id, port in context.ports.items()})
    return values


def _inherited(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if name not in FOR_THE_SUPERVISOR_ALONE and not name.startswith(_OUR_PREFIX)
    }


def _injected(context: LaunchContext) -> dict[str, str]:
    injected = {
        "ROLLBRIDGE_APPLICATION": context.application,
        "ROLLBRIDGE_PROCESS_ID": context.process_id,
        "ROLLBRIDGE_RELEASE_ID": context.release_id,
        "ROLLBRIDGE_RELEASE_PATH": context.release_path,
        "ROLLBRIDGE_REVISION": context.revision,
        "ROLLBRIDGE_REPLICA_INDEX": str(context.replica_index),
        "ROLLBRIDGE_REPLICA_COUNT": str(context.replica_count),
    }
    if context.port is not None:
        injected["ROLLBRIDGE_PORT"] = str(context.port)
    injected.update({port_variable(process_id): str(port) for process_id, port in context.ports.items()})
    return injected


def _check_shell_command(text: str, release_path: str) -> None:
    _check_release_path(
        text, release_path, 'write the command as an array of words: command = ["program", "{{release_path}}/..."]'
    )


def _check_hook(text: str, release_path: str) -> None:
    _check_release_path(text, release_path, 'write "$ROLLBRIDGE_RELEASE_PATH" instead, in double quotes')


def _check_release_path(text: str, release_path: str, fix: str) -> None:
    if "release_path" not in templates.placeholders(text):
        return
    for character in release_path:
        if not (_PLAIN_IN_A_SHELL.match(character) or (ord(character) > 127 and _is_plain(character))):
            raise BadValue(
                f"the release path {show_text(release_path)} has {_named(character)}, which a shell would interpret",
                f"{fix}, or rename the directory",
            )


def _is_plain(character: str) -> bool:
    return character.isprintable() and not character.isspace()


def _named(character: str) -> str:
    return "a blank" if character == " " else f"the character '{escape(character, 1)}'"
