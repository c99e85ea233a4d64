"""A background process that keeps a journal of its life, for every policy but ``proxied``.

Its environment says how it behaves: ``JOURNAL`` (file, one JSON object a line), ``TERM_GATE`` (on SIGTERM waits for
that file), ``IGNORES_TERM``, ``EXIT_CODE`` (exits at once), ``GREEDY_ONCE`` (a file: while it exists, deletes it and
takes 200 MB of memory), ``LINGERS_SECONDS`` (between SIGTERM and exit).
"""

# Started hundreds of times in a test run: pathlib would cost more than all else it imports.
# ruff: noqa: PTH108, PTH110

from __future__ import annotations

import json
import os
import signal
import sys
import time

BALLAST_BYTES = 200_000_000


def note(event: str, **data: object) -> None:
    entry = {
        "event": event,
        "process": os.environ.get("ROLLBRIDGE_PROCESS_ID"),
        "release": os.environ.get("ROLLBRIDGE_RELEASE_ID"),
        "replica": os.environ.get("ROLLBRIDGE_REPLICA_INDEX"),
        "port": os.environ.get("ROLLBRIDGE_PORT"),
        "pid": os.getpid(),
        "at": time.monotonic(),
        **data,
    }
    # One write with O_APPEND: lines of different processes never mix.
    descriptor = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, json.dumps(entry).encode() + b"\n")
    os.close(descriptor)


def on_signal(signum: int, _frame: object) -> None:
    note("signal", signal=signal.Signals(signum).name)
    if signum == signal.SIGUSR1 or os.environ.get("IGNORES_TERM"):
        return
    if gate := os.environ.get("TERM_GATE"):
        with open(f"{gate}.waiting", "w"):
            pass
        while not os.path.exists(gate):
            time.sleep(0.005)
    time.sleep(float(os.environ.get("LINGERS_SECONDS", "0")))
    note("stop")
    os._exit(0)


def main() -> None:
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, on_signal)
    note("start", mode=os.environ.get("MODE", ""))
    print(f"worker {os.environ.get('ROLLBRIDGE_PROCESS_ID')} is up", flush=True)
    if code := os.environ.get("EXIT_CODE"):
        print(f"worker gives up with {code}", flush=True)
        sys.exit(int(code))
    ballast = b""
    trigger = os.environ.get("GREEDY_ONCE", "")
    while True:
        if trigger and os.path.exists(trigger):
            os.unlink(trigger)
            ballast = b"x" * BALLAST_BYTES
            note("greedy", bytes=len(ballast))
        # A signal ends the nap; the poll is only for the trigger file.
        time.sleep(0.05 if trigger else 3600)


if __name__ == "__main__":
    main()
