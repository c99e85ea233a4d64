"""The stop sequence of one process as a table: quiet, drain, ask, wait, sweep, kill. Times are monotonic seconds."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rollbridge.config.model import KillMode, LifecycleConfig, ProcessConfig

HOOK_TIMEOUT_SECONDS = 30.0  # for hooks of a process with an indefinite graceful_stop (design section 7)
STRAY_TIMEOUT_SECONDS = 30.0  # for descendants that left the session of such a process: they hold up nothing for ever
KILL_TIMEOUT_SECONDS = 10.0  # a process that survives SIGKILL this long hangs in the kernel; waiting longer is no help
HOOK_LINGER_SECONDS = 2.0  # a hook still running when the process has ended may finish its last words


class StopStep(enum.Enum):
    QUIETING = "quiet"  # quiet_command runs
    DRAINING = "drain"  # drain_command runs, or drain_timeout passes
    ASKING = "ask"  # stop_command runs, or the stop signal is sent to the group
    WAITING = "wait"  # up to graceful_stop since it was asked
    SWEEPING = "sweep"  # the leader is gone; what is left of its tree is asked, then waited for
    KILLING = "kill"  # SIGKILL to everything left
    DONE = "done"


class StopEvent(enum.Enum):
    PASSED = "passed"  # the step's own act is over: hook ended, drain time up, signal sent
    EXITED = "exited"  # the leader ended
    OVERDUE = "overdue"  # the step's deadline has passed
    CLEARED = "cleared"  # no member of the tree is left
    OVERRIDDEN = "overridden"  # an operator wants it gone now


TRANSITIONS: Final[Mapping[StopStep, Mapping[StopEvent, StopStep]]] = {
    StopStep.QUIETING: {
        StopEvent.PASSED: StopStep.DRAINING,
        StopEvent.EXITED: StopStep.SWEEPING,
        StopEvent.OVERRIDDEN: StopStep.KILLING,
    },
    StopStep.DRAINING: {
        StopEvent.PASSED: StopStep.ASKING,
        StopEvent.EXITED: StopStep.SWEEPING,
        StopEvent.OVERRIDDEN: StopStep.KILLING,
    },
    StopStep.ASKING: {
        StopEvent.PASSED: StopStep.WAITING,
        StopEvent.EXITED: StopStep.SWEEPING,
        StopEvent.OVERRIDDEN: StopStep.KILLING,
    },
    StopStep.WAITING: {
        StopEvent.EXITED: StopStep.SWEEPING,
        StopEvent.OVERDUE: StopStep.KILLING,
        StopEvent.OVERRIDDEN: StopStep.KILLING,
    },
    StopStep.SWEEPING: {
        StopEvent.CLEARED: StopStep.DONE,
        StopEvent.OVERDUE: StopStep.KILLING,
        StopEvent.OVERRIDDEN: StopStep.KILLING,
    },
    StopStep.KILLING: {
        StopEvent.CLEARED: StopStep.DONE,
        StopEvent.OVERDUE: StopStep.DONE,  # unkillable (uninterruptible in the kernel): reported, not waited for
    },
    StopStep.DONE: {},
}


class IllegalStopStep(Exception):
    """Our defect: an event that cannot happen in this step."""


@dataclass(frozen=True, slots=True)
class StopPlan:
    """What the stop of one process consists of; ``graceful_seconds`` None: indefinite."""

    quiet_command: str | None
    drain_command: str | None
    drain_seconds: float
    stop_command: str | None
    stop_signal: int
    graceful_seconds: float | None
    kill_mode: KillMode = KillMode.TREE
    has_group: bool = False  # a control group of its own


def plan_stop(process: ProcessConfig, lifecycle: LifecycleConfig) -> StopPlan:
    """``lifecycle`` is that of the launch: its templates are expanded."""
    return StopPlan(
        quiet_command=lifecycle.quiet_command,
        drain_command=lifecycle.drain_command,
        drain_seconds=lifecycle.drain_timeout_seconds,
        stop_command=lifecycle.stop_command,
        stop_signal=process.stop_signal,
        graceful_seconds=process.graceful_stop_seconds,
        kill_mode=process.kill_mode,
        has_group=process.cgroup is not None,
    )


def is_reached(mode: KillMode, leader: int, pid: int, group: int) -> bool:
    """Whether a stop of the process led by pid ``leader`` ends the member ``pid`` of process group ``group``."""
    if mode is KillMode.PROCESS:
        return pid == leader
    return mode is KillMode.TREE or group == leader


def longest_stop_seconds(plan: StopPlan) -> float | None:
    """How long the whole sequence may take, SIGKILL included; None: for ever."""
    if plan.graceful_seconds is None:
        return None
    hooks = [hook for hook in (plan.quiet_command, plan.stop_command) if hook is not None]
    return plan.drain_seconds + (len(hooks) + 1) * plan.graceful_seconds + KILL_TIMEOUT_SECONDS


def first_step(plan: StopPlan) -> StopStep:
    return skip_absent(plan, StopStep.QUIETING)


def next_step(plan: StopPlan, step: StopStep, event: StopEvent) -> StopStep:
    """Return the step after ``event``; raise IllegalStopStep if none is legal."""
    try:
        following = TRANSITIONS[step][event]
    except KeyError:
        raise IllegalStopStep(f"{event.name} while {step.name}") from None
    return skip_absent(plan, following)


def skip_absent(plan: StopPlan, step: StopStep) -> StopStep:
    """``step``, or the first after it that the plan has."""
    if step is StopStep.QUIETING and plan.quiet_command is None:
        step = StopStep.DRAINING
    if step is StopStep.DRAINING and plan.drain_command is None and plan.drain_seconds <= 0:
        step = StopStep.ASKING
    return step


def hook_timeout(plan: StopPlan, step: StopStep) -> float:
    """How long the hook of ``step`` may take: drain_timeout for draining, otherwise graceful_stop."""
    if step is StopStep.DRAINING:
        return plan.drain_seconds
    return HOOK_TIMEOUT_SECONDS if plan.graceful_seconds is None else plan.graceful_seconds


def grace_deadline(plan: StopPlan, asked_at: float) -> float | None:
    """When SIGKILL is due for what was asked to stop at ``asked_at``; None: never."""
    return None if plan.graceful_seconds is None else asked_at + plan.graceful_seconds


def sweep_deadline(plan: StopPlan, asked_at: float, *, has_session_member: bool, strays_since: float) -> float | None:
    """When the survivors of a leader that has ended are killed; None: never.

    ``"indefinite"`` protects the work, not only the leader: behind a shell the worker is a child, and goes on after the
    shell has died of the same signal. So what is still in the leader's session is waited for without end. Strays
    outside of it, once only they are left, get a bounded time.
    """
    if plan.graceful_seconds is not None:
        return asked_at + plan.graceful_seconds
    return None if has_session_member else strays_since + STRAY_TIMEOUT_SECONDS


def must_be_asked(*, is_asked: bool, was_there_before_the_request: bool, is_orphan: bool) -> bool:
    """Whether a survivor is sent the stop signal.

    Not twice, since for some programs the second means "at once". Not what a member started after it was asked: that is
    part of its graceful end. But once such a helper is nobody's any more, there is nothing left for it to help.
    """
    return not is_asked and (was_there_before_the_request or is_orphan)
