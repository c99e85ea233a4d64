"""Starts a program as another user, or with limits of its own, by way of doorway.py; and says what kept it out."""

from __future__ import annotations

import errno
import marshal
import os
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache

from rollbridge.process.accounts import Entry
from rollbridge.process.spawning import StartFailed, explain_failure, spawn
from rollbridge.process.tree import INSTANCE_VARIABLE

LONGEST_REPORT_BYTES = 65536


def spawn_through(
    entry: Entry,
    argv: Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str],
    stdout: int,
    stderr: int,
) -> tuple[int, int]:
    """Start the interpreter that becomes ``argv``; return its pid and where it reports.

    The descriptor reads as ended once the program runs, or has what ``explain_report`` makes a sentence of.
    Raises StartFailed when not even the interpreter could be started.
    """
    order = os.memfd_create("order", os.MFD_CLOEXEC)
    try:
        with open(os.dup(order), "wb") as file:
            file.write(encode_order(entry, argv, cwd or "/", env))
        os.lseek(order, 0, os.SEEK_SET)
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pid = spawn(
                (sys.executable, "-I", "-S", "-c", doorway_source(), str(order), str(writing)),
                cwd="/",
                # The mark from its first moment on: a daemon that takes over now must know whose it is.
                env={name: env[name] for name in (INSTANCE_VARIABLE,) if name in env},
                stdout=stdout,
                stderr=stderr,
                pass_fds=(order, writing),
            )
        except StartFailed:
            os.close(reading)
            raise
        finally:
            os.close(writing)
    finally:
        os.close(order)
    return pid, reading


@cache
def doorway_source() -> str:
    """The text of doorway.py, wherever we were loaded from."""
    data = pkgutil.get_data("rollbridge.process", "doorway.py")
    assert data is not None, "our own modules have a text"
    return data.decode()


def encode_order(entry: Entry, argv: Sequence[str], cwd: str, env: Mapping[str, str]) -> bytes:
    """Raise StartFailed for what no program can be given."""
    if any("\0" in text for text in (*argv, *env.values())):
        raise StartFailed(explain_failure(ValueError("embedded null byte"), argv, cwd, env))
    program = argv[0]
    search = [""] if "/" in program else env.get("PATH", os.defpath).split(os.pathsep)
    order = {
        "cgroup": entry.cgroup,
        "nice": entry.nice,
        "limits": [(one.name, one.soft, one.hard) for one in entry.limits],
        "umask": entry.umask,
        "groups": None if entry.groups is None else list(entry.groups),
        "gid": entry.gid,
        "uid": entry.uid,
        "cwd": os.fsencode(cwd),
        # As execvp looks: an empty part of PATH is the working directory.
        "candidates": [os.fsencode(os.path.join(directory, program)) for directory in search],  # noqa: PTH118
        "argv": [os.fsencode(word) for word in argv],
        "env": {os.fsencode(name): os.fsencode(value) for name, value in env.items()},
    }
    return marshal.dumps(order, 2)


def explain_report(
    report: bytes, entry: Entry, argv: Sequence[str], cwd: str | None, env: Mapping[str, str], *, is_path_secret: bool
) -> str:
    """What kept the program from starting, as one sentence that ends with an act."""
    step, detail, number = marshal.loads(report)
    reason = os.strerror(number) if number else detail
    who = entry.name
    match step:
        case "exec" if number in (errno.EACCES, errno.EPERM) and entry.uid is not None:
            found = explain_failure(OSError(number, reason), argv, None, env, is_path_secret=is_path_secret)
            return f"{found} (it runs as {who}, who must be able to reach it)"
        case "exec" if number == errno.EAGAIN:
            return f"{who} has more processes than limits.nproc allows ({reason}); raise it, or stop what is not needed"
        case "exec":
            return explain_failure(
                OSError(number, reason), argv, None if "/" not in argv[0] else cwd, env, is_path_secret=is_path_secret
            )
        case "cwd":
            return (
                f"the working directory {cwd} may not be entered by {who}: {reason}; chmod or chown it, or correct cwd"
            )
        case "user" | "group" | "groups":
            return (
                f"the daemon may not become {who}: {reason}; run the daemon as root, or remove {step} from its section"
            )
        case "nice":
            return f"nice {entry.nice} is not permitted: {reason}; run the daemon as root, or choose a higher number"
        case "limits":
            return f"limits.{detail} cannot be set: {reason}; run the daemon as root, or stay within its own hard limit"
        case "cgroup":
            return f"its control group {detail} cannot be joined: {reason}; see what doctor says of control groups"
        case _:
            return f"{argv[0]!r} could not be started ({step}): {reason}; are its limits too low to start anything?"
