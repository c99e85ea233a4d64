"""For tests: ends the daemon as ``kill -9`` does, after a chosen step of a deploy or rollback.

``ROLLBRIDGE_TEST_KILL_AFTER`` in the daemon's environment names the step (``switch``), or a part of one
(``start:r42.web.0``, ``singletons:cron stopped``). Without it nothing is asked at any step.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Final

from rollbridge.daemon.errors import DaemonFailed
from rollbridge.release.steps import Passed, Step, pass_by

VARIABLE: Final = "ROLLBRIDGE_TEST_KILL_AFTER"
_ASKED_WRONGLY: Final = 2


def kill_after(environ: Mapping[str, str]) -> Passed:
    """Return what is to hear of every step; raise DaemonFailed when the variable names none."""
    wanted = environ.get(VARIABLE)
    if not wanted:
        return pass_by
    name, _, wanted_part = wanted.partition(":")
    known = [step.value for step in Step]
    if name not in known:
        raise DaemonFailed(f"{VARIABLE} names no step: {name}. There are {', '.join(known)}", _ASKED_WRONGLY)

    def end(step: Step, part: str) -> None:
        if (step.value, part) == (name, wanted_part):
            os.kill(os.getpid(), signal.SIGKILL)

    return end
