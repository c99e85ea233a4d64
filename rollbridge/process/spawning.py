"""Start one program in a session of its own, and say in the operator's words why that failed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rollbridge.config.launch import FOR_THE_SUPERVISOR_ALONE
from rollbridge.process.tree import INSTANCE_VARIABLE


class StartFailed(Exception):
    """The operator's turn: the program could not be started. The text says what, why and what to do."""


def normalise_signals() -> None:
    """See to it that programs we start have default signal dispositions and an empty mask.

    Ignored signals and the mask are inherited through exec (SIGHUP under nohup, SIGINT of a shell's background
    job), handlers are not: an ignored signal gets a handler that does nothing, so it is default after exec.
    SIGPIPE, SIGXFZ and SIGXFSZ, which Python itself ignores, are restored by subprocess.
    """
    restored_by_subprocess = {signal.SIGPIPE, signal.SIGXFSZ}
    for signum in signal.valid_signals() - restored_by_subprocess:
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, _do_nothing)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _let_signals_in() -> None:
    """In the new process: what an upgrade holds back in the daemon for a moment would be held back in it for ever."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _do_nothing(signum: int, frame: object) -> None:
    """Stand in for SIG_IGN; see normalise_signals."""


def spawn(
    argv: Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    stdout: int,
    stderr: int,
    stdin: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    is_path_secret: bool = False,
) -> int:
    """Start ``argv`` as leader of a new session and return its pid; raise StartFailed.

    Without ``env`` our own is inherited, but not the mark of an instance: what we start for ourselves belongs to none.
    Nor what the service manager has told us alone.
    The caller registers the pid with the reaper before it yields to the loop.
    """
    if env is None:
        left_out = {INSTANCE_VARIABLE, *FOR_THE_SUPERVISOR_ALONE}
        env = {name: value for name, value in os.environ.items() if name not in left_out}
    try:
        child = subprocess.Popen(
            argv,
            cwd=cwd,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
            # Only when there is need: it makes a start slower.
            preexec_fn=_let_signals_in if signal.pthread_sigmask(signal.SIG_BLOCK, ()) else None,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        explanation = explain_failure(error, argv, cwd, env, is_path_secret=is_path_secret)
        raise StartFailed(explanation) from error
    # The reaper waits for this pid; Popen must neither wait for it nor complain that nobody did.
    child.returncode = 0
    return child.pid


def explain_failure(
    error: Exception,
    argv: Sequence[str],
    cwd: str | None,
    env: Mapping[str, str],
    *,
    is_path_secret: bool = False,
) -> str:
    """What kept ``argv`` from starting, as one sentence that ends with an act."""
    program = argv[0] if argv else ""
    if isinstance(error, ValueError):  # NUL bytes in an argument or in the environment
        return f"{program!r} could not be started: {error}; remove the NUL byte from its command or environment"
    if not isinstance(error, OSError):
        return f"{program!r} could not be started: {error}"
    number = error.errno
    if number in (errno.EMFILE, errno.ENFILE):
        return (
            f"{program!r} could not be started: no file descriptors are left ({error.strerror}); "
            "raise the open files limit of the daemon (ulimit -n, LimitNOFILE)"
        )
    if number == errno.EAGAIN:
        return (
            f"{program!r} could not be started: no more processes may be created ({error.strerror}); "
            "raise the process limit (ulimit -u, TasksMax) or stop what is not needed"
        )
    if number == errno.ENOMEM:
        return f"{program!r} could not be started: the machine is out of memory; free some or give it more"
    if number == errno.E2BIG:
        size = sum(len(os.fsencode(text)) + 1 for text in argv) + sum(
            len(os.fsencode(name)) + len(os.fsencode(value)) + 2 for name, value in env.items()
        )
        return (
            f"{program!r} could not be started: its arguments and environment take {size} bytes, more than Linux "
            "accepts; shorten the command or move settings into a file"
        )
    if cwd is not None:
        problem = explain_directory(cwd)
        if problem:
            return problem
    shown_path = "as its env_file or env_command sets it" if is_path_secret else env.get("PATH", os.defpath)
    return explain_program(program, number or 0, cwd, env, error.strerror or str(error), shown_path)


def explain_directory(cwd: str) -> str | None:
    """Why ``cwd`` cannot be a working directory; None when it can."""
    path = Path(cwd)
    try:
        if path.is_dir():
            if os.access(path, os.X_OK):
                return None
            return f"the working directory {cwd} may not be entered by this user; chmod or chown it"
        if path.exists() or path.is_symlink():
            kind = "a symlink that leads nowhere" if not path.exists() else "not a directory"
            return f"the working directory {cwd} is {kind}; correct cwd or deploy the release again"
    except PermissionError:
        return f"the working directory {cwd} may not be reached by this user; check the permissions above it"
    return f"the working directory {cwd} does not exist; correct cwd or deploy the release again"


def explain_program(
    program: str, number: int, cwd: str | None, env: Mapping[str, str], reason: str, shown_path: str
) -> str:
    if "/" not in program:
        found = shutil.which(program, mode=os.F_OK, path=env.get("PATH", os.defpath))
        if found is None:
            return (
                f"command {program!r} was not found in PATH ({shown_path}); install it, correct the name, "
                "or give its full path"
            )
        path = Path(found)
    else:
        path = Path(cwd or ".") / program
        if not path.exists():
            return f"command {path} does not exist; correct the path or deploy a release that has it"
    if path.is_dir():
        return f"command {path} is a directory; name the program inside it"
    if number == errno.EACCES:
        return f"command {path} is not executable; run chmod +x on it, or start it through its interpreter"
    if number in (errno.ENOENT, errno.ENOEXEC):
        interpreter = read_interpreter(path)
        if interpreter is None:
            return (
                f"command {path} is not a program this machine can run; "
                "begin it with a line like #!/bin/sh, or build it for this machine"
            )
        return f"the interpreter {interpreter} of {path} does not exist; install it or correct the first line"
    if number == errno.ETXTBSY:
        return f"command {path} is being written to; deploy again when the copy is complete"
    return f"command {path} could not be started: {reason}"


def read_interpreter(path: Path) -> str | None:
    """The program on the #! line of ``path``; None when there is none."""
    try:
        with path.open("rb") as file:
            first = file.readline(256)
    except OSError:
        return None
    words = first[2:].split() if first.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else None
