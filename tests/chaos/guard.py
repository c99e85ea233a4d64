"""Leaves nothing behind, whatever becomes of the run: ``guard.py MARK DIRECTORY`` waits for the end of its stdin.

The run holds the other end of that pipe; however it ends, kill -9 included, the kernel closes it. Then every process
that carries the mark is killed and the directory removed.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time

from tests.support.processes import marked, send

PATIENCE_SECONDS = 20.0


def main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    mark, directory = sys.argv[1:]
    sys.stdin.buffer.read()
    deadline = time.monotonic() + PATIENCE_SECONDS
    # Again until nobody is left: a daemon may have started something between our look and its end.
    while (lines := marked(mark)) and time.monotonic() < deadline:
        for line in lines:
            send(line.pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
