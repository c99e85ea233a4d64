"""What a service manager is told (sd_notify(3)): from facts to datagrams, and nothing sent."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from rollbridge.config.model import Policy, ProcessConfig, ProxyConfig
from rollbridge.process.stopping import longest_stop_seconds, plan_stop

Message = dict[str, str]  # assignments of one datagram: READY to "1"

# What systemd takes of one datagram is 4096 bytes, and a line of `systemctl status` is not longer than a terminal.
_STATUS_CHARACTERS: Final = 400
EXTEND_EVERY_SECONDS: Final = 5.0
_EXTEND_SECONDS: Final = 30  # some that are late, on a machine that swaps, are no reason to be killed
_ENDING_SECONDS: Final = 15.0  # for the workers to go, and for what SIGKILL has to end


class Phase(enum.Enum):
    """Where the daemon stands, as the service manager sees it."""

    STARTING = "starting"  # nobody can talk to it yet
    SERVING = "serving"  # the control socket is there, the bootstrap is done
    RELOADING = "reloading"  # it reads its config again, or becomes another version of itself
    STOPPING = "stopping"


_ANNOUNCED: Final[Mapping[Phase, Message]] = {
    Phase.STARTING: {},
    Phase.SERVING: {"READY": "1"},
    Phase.RELOADING: {"RELOADING": "1"},
    Phase.STOPPING: {"STOPPING": "1"},
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the status line tells; ids of releases, ``operation`` in words ("deploy r43")."""

    phase: Phase
    active: str | None = None
    draining: tuple[str, ...] = ()
    operation: str | None = None
    is_stopped: bool = False  # nothing is active because somebody wanted it so


def status_line(facts: Facts) -> str:
    """Return what ``systemctl status`` shows."""
    if facts.phase is Phase.STOPPING:
        return "shutting down"
    if facts.active is not None:
        parts = [f"release {facts.active} serves"]
    else:
        parts = ["no release: stopped" if facts.is_stopped else "no release"]
    if facts.draining:
        parts.append(f"{', '.join(facts.draining)} {'drains' if len(facts.draining) == 1 else 'drain'}")
    if facts.operation is not None:
        parts.append(f"{facts.operation} in progress")
    line = "; ".join(parts)
    return line if facts.phase is Phase.SERVING else f"{facts.phase.value}: {line}"


def news(told: Facts | None, facts: Facts, monotonic_seconds: float) -> Message:
    """Return what changed since ``told``, empty when nothing did. ``monotonic_seconds`` is CLOCK_MONOTONIC."""
    message: Message = {}
    if told is None or told.phase is not facts.phase:
        message |= _ANNOUNCED[facts.phase]
        if facts.phase is Phase.RELOADING:
            # By this a manager that asked for the reload knows that it is this one, and not one before.
            message["MONOTONIC_USEC"] = str(int(monotonic_seconds * 1_000_000))
    line = status_line(facts)
    if told is None or status_line(told) != line:
        message["STATUS"] = line
    return message


def more_time(phase: Phase, phase_seconds: float, stop_seconds: float) -> Message:
    """Return what asks for more time, when that is due; ``phase_seconds`` is how long this phase has lasted.

    A stop asks only for as long as the configured stop sequences may take: what hangs beyond that is the manager's to
    kill. A start is bounded by the timeouts of its own steps.
    """
    if phase is Phase.SERVING or (phase is Phase.STOPPING and phase_seconds > stop_seconds):
        return {}
    return {"EXTEND_TIMEOUT_USEC": str(_EXTEND_SECONDS * 1_000_000)}


def stop_seconds(proxy: ProxyConfig, processes: Iterable[ProcessConfig]) -> float:
    """Return how long a shutdown of ``processes`` takes at most; one that may take for ever is not counted."""
    of_services, of_others = [0.0], [0.0]
    for process in processes:
        seconds = longest_stop_seconds(plan_stop(process, process.lifecycle))
        (of_services if process.policy is Policy.SERVICE else of_others).append(seconds or 0.0)
    in_flight = min(proxy.drain_timeout_seconds, proxy.force_stop_timeout_seconds)
    return in_flight + max(of_others) + max(of_services) + _ENDING_SECONDS


def failure(error: Exception) -> Message:
    """Return what is left to say of a start that failed."""
    message = {"STATUS": f"failed: {error}"}
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            message["ERRNO"] = str(cause.errno)
            break
        cause = cause.__cause__
    return message


def encode(message: Message) -> bytes:
    """Return ``message`` as one datagram; values are made to fit a line each."""
    lines = [f"{name}={' '.join(value.split())[:_STATUS_CHARACTERS]}" for name, value in message.items()]
    return "\n".join(lines).encode("utf-8", "replace")


def socket_address(text: str) -> str | None:
    """Return the address that ``NOTIFY_SOCKET`` names, None when it is of no kind that exists here.

    A path, or with ``@`` a name in the abstract namespace.
    """
    if text.startswith("@") and len(text) > 1:
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """Return how often to say that we live: twice as often as is asked for; None when it is not asked of ``pid``."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        return None
    return int(text) / 1_000_000 / 2
