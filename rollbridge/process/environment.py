"""The environment of one start: what the launch says, and what env_file and env_command say at that moment.

Later wins: inherited, injected, what its user has (HOME), the files in their order, the command, the process's own
``env``. No error holds a value, nor any text of a file or of what the command printed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from rollbridge.config.dotenv import BadLine, parse_dotenv
from rollbridge.config.model import EnvFile, EnvSources
from rollbridge.process.accounts import hook_entry, user_environment
from rollbridge.process.reaper import Reaper
from rollbridge.process.run import ProcessSpec
from rollbridge.process.spawning import StartFailed

# Linux takes about 2 MiB of arguments and environment together; a larger file is not one of variables.
LARGEST_SOURCE_BYTES = 1024 * 1024


async def complete_environment(spec: ProcessSpec, reaper: Reaper, stderr: int) -> dict[str, str]:
    """Read the files, run the command, and return the whole environment; raise StartFailed.

    ``stderr`` gets what the command says. It is killed when its time is over, or when this is cancelled.
    """
    launch, sources = spec.launch, spec.launch.env_sources
    if sources is None:
        return dict(launch.env)
    found = user_environment(spec.process)
    for file in sources.files:
        found.update(read_env_file(file, os.geteuid()))
    if sources.command is not None:
        environment = {**launch.env, **found, **sources.own}
        found.update(await _run_command(spec, sources, sources.command, environment, reaper, stderr))
    return {**launch.env, **found, **sources.own}


def read_env_file(file: EnvFile, uid: int) -> dict[str, str]:
    """Return the variables of ``file``, none when it is optional and missing; raise StartFailed.

    Whoever may write it decides what runs (PATH, LD_PRELOAD): nobody but root and ``uid`` may.
    """
    try:
        # Not to wait for ever for the writer of a FIFO.
        descriptor = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if file.is_optional and error.errno in (errno.ENOENT, errno.ENOTDIR):
            return {}
        raise StartFailed(f"env_file {file.path} cannot be read: {error.strerror}; {_open_fix(file, error)}") from error
    with open(descriptor, "rb") as opened:
        # Of what was opened, so that nobody can put another file in its place meanwhile.
        status = os.fstat(descriptor)
        problem = explain_unsafe(status.st_mode, status.st_uid, uid)
        if problem is not None:
            raise StartFailed(f"env_file {file.path} {problem.format(path=file.path)}")
        try:
            data = opened.read(LARGEST_SOURCE_BYTES + 1)
        except OSError as error:
            raise StartFailed(f"env_file {file.path} cannot be read: {error.strerror}; check its disk") from error
    return _parse(f"env_file {file.path}", data)


def explain_unsafe(mode: int, owner: int, uid: int) -> str | None:
    """Why a file of this ``mode`` and ``owner`` is not read by a daemon of ``uid``; ``{path}`` stands for its path."""
    if not stat.S_ISREG(mode):
        return "is not a regular file; name a file"
    if owner not in (0, uid):
        return f"belongs to uid {owner}, who could change what is started; run chown {uid} {{path}}"
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"may be written by others (mode {stat.S_IMODE(mode):04o}); run chmod go-w {{path}}"
    return None


def _open_fix(file: EnvFile, error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return 'create it, correct the path, or end it with "?" if it may be missing'
    if error.errno == errno.EACCES:
        return f"let uid {os.geteuid()}, who runs the daemon, read it"
    return "correct the path"


async def _run_command(
    spec: ProcessSpec,
    sources: EnvSources,
    argv: tuple[str, ...],
    environment: dict[str, str],
    reaper: Reaper,
    stderr: int,
) -> dict[str, str]:
    """Run ``argv`` and return the variables it prints; raise StartFailed."""
    # In memory, never on a disk, and of a fixed size: what prints more gets an error, and fills nothing.
    printed = os.memfd_create("env_command", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(printed, LARGEST_SOURCE_BYTES + 1)
        fcntl.fcntl(printed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        result = await reaper.run_hook(
            argv,
            cwd=spec.launch.cwd,
            env=environment,
            stdout=printed,
            stderr=stderr,
            timeout_seconds=sources.command_timeout_seconds,
            entry=hook_entry(spec.process),
        )
        if result.error is not None:
            raise StartFailed(
                f"env_command {result.error}; run it by hand, or see what it said in the output of the process"
            )
        data = os.pread(printed, LARGEST_SOURCE_BYTES + 1, 0)
    finally:
        os.close(printed)
    return _parse("what env_command printed", data.rstrip(b"\0"))


def _parse(what: str, data: bytes) -> dict[str, str]:
    if len(data) > LARGEST_SOURCE_BYTES:
        raise StartFailed(f"{what} is longer than 1 MiB; it should hold variables only")
    try:
        return parse_dotenv(data.decode())
    except UnicodeDecodeError:
        # Without its cause: the text of that error has bytes of the value in it.
        raise StartFailed(f"{what} is not UTF-8; write it in UTF-8, or a value of other bytes in base64") from None
    except BadLine as bad:
        raise StartFailed(f"{what}: {bad}; write NAME=value, with a value of several lines in quotes") from None
