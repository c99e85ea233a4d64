"""Between fork and exec: becomes who the program is to run as, then becomes the program.

Its text is given to a fresh, bare interpreter, so that nothing of the supervisor's (threads, locks, the loop) is ever
in a child that runs Python. It imports nothing of rollbridge, reads its order from a descriptor in memory, and says
what failed, as ``marshal`` of (step, detail, errno), on another that exec closes: an end without a word is success.
The order of steps is that of privileges: what needs them comes before they are given up.
"""

from __future__ import annotations

import marshal
import os
import resource
import sys
from typing import Any


def enter(order: dict[str, Any], report: int) -> None:
    """Carry out ``order``; return only when that failed, after telling why."""
    step, detail = "begin", ""
    try:
        if order["cgroup"] is not None:
            step, detail = "cgroup", order["cgroup"]
            with open(order["cgroup"] + "/cgroup.procs", "wb", buffering=0) as members:
                members.write(b"0")  # whoever writes it
        if order["nice"] is not None:
            step = "nice"
            os.setpriority(os.PRIO_PROCESS, 0, order["nice"])
        step = "limits"
        for name, soft, hard in order["limits"]:
            detail = name
            resource.setrlimit(getattr(resource, "RLIMIT_" + name.upper()), (soft, hard))
        if order["umask"] is not None:
            os.umask(order["umask"])
        step, detail = "groups", ""
        if order["groups"] is not None:
            os.setgroups(order["groups"])
        if order["gid"] is not None:
            step = "group"
            os.setresgid(order["gid"], order["gid"], order["gid"])
        if order["uid"] is not None:
            step = "user"
            os.setresuid(order["uid"], order["uid"], order["uid"])
        step = "cwd"
        os.chdir(order["cwd"])
        step = "exec"
        become(order["candidates"], order["argv"], order["env"])
    except (OSError, ValueError, MemoryError) as error:
        number = error.errno if isinstance(error, OSError) else None
        os.write(report, marshal.dumps((step, detail or str(error), number or 0), 2))


def become(candidates: list[bytes], argv: list[bytes], env: dict[bytes, bytes]) -> None:
    """Execute the first of ``candidates`` that can be; raise OSError as execvp would."""
    import _signal  # type: ignore[import-not-found]  # signal itself, without the enums that take longer than all this

    for name in ("SIGPIPE", "SIGXFSZ", "SIGINT"):
        _signal.signal(getattr(_signal, name), _signal.SIG_DFL)  # an interpreter ignores or handles them
    telling: OSError | None = None
    for path in candidates:
        try:
            os.execve(path, argv, env)
        except (FileNotFoundError, NotADirectoryError) as error:
            last: OSError = error
        except OSError as error:
            last = telling = error
    raise telling or last


def main() -> None:
    source, report = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(report, False)
    with open(source, "rb") as file:
        order = marshal.loads(file.read())
    enter(order, report)
    os._exit(127)


if __name__ == "__main__":
    main()
