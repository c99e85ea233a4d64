"""The stop sequence as a table."""

from __future__ import annotations

import itertools

import pytest

from rollbridge.process.stopping import (
    HOOK_TIMEOUT_SECONDS,
    STRAY_TIMEOUT_SECONDS,
    TRANSITIONS,
    IllegalStopStep,
    StopEvent,
    StopPlan,
    StopStep,
    first_step,
    grace_deadline,
    hook_timeout,
    must_be_asked,
    next_step,
    sweep_deadline,
)

PLAIN = StopPlan(None, None, 0.0, None, 15, 10.0)
FULL = StopPlan("quiet", "drain", 60.0, "stop", 15, 10.0)
ENDLESS = StopPlan(None, None, 0.0, None, 15, None)


def walk(plan: StopPlan, *events: StopEvent) -> list[StopStep]:
    steps = [first_step(plan)]
    for event in events:
        steps.append(next_step(plan, steps[-1], event))
    return steps


def test_plain_stop_asks_waits_and_sweeps() -> None:
    assert walk(PLAIN, StopEvent.PASSED, StopEvent.EXITED, StopEvent.CLEARED) == [
        StopStep.ASKING,
        StopStep.WAITING,
        StopStep.SWEEPING,
        StopStep.DONE,
    ]


def test_full_stop_goes_through_every_hook_to_the_kill() -> None:
    events = [StopEvent.PASSED] * 3 + [StopEvent.OVERDUE, StopEvent.CLEARED]
    assert walk(FULL, *events) == [
        StopStep.QUIETING,
        StopStep.DRAINING,
        StopStep.ASKING,
        StopStep.WAITING,
        StopStep.KILLING,
        StopStep.DONE,
    ]


@pytest.mark.parametrize("step", [StopStep.QUIETING, StopStep.DRAINING, StopStep.ASKING, StopStep.WAITING])
def test_exit_at_any_step_leads_to_the_sweep(step: StopStep) -> None:
    assert next_step(FULL, step, StopEvent.EXITED) is StopStep.SWEEPING


@pytest.mark.parametrize("step", [step for step in StopStep if step not in (StopStep.KILLING, StopStep.DONE)])
def test_override_kills_from_any_step(step: StopStep) -> None:
    assert next_step(ENDLESS, step, StopEvent.OVERRIDDEN) is StopStep.KILLING


def test_waiting_for_exit_is_a_drain_without_a_command() -> None:
    assert first_step(StopPlan(None, None, 5.0, None, 15, 10.0)) is StopStep.DRAINING


def test_every_step_has_an_entry_and_anything_else_is_our_defect() -> None:
    assert set(TRANSITIONS) == set(StopStep)
    for step, event in itertools.product(StopStep, StopEvent):
        if event not in TRANSITIONS[step]:
            with pytest.raises(IllegalStopStep):
                next_step(FULL, step, event)


def test_every_step_leads_to_the_end() -> None:
    for step in set(StopStep) - {StopStep.DONE}:
        reached, open_steps = {step}, [step]
        while open_steps:
            for following in TRANSITIONS[open_steps.pop()].values():
                if following not in reached:
                    reached.add(following)
                    open_steps.append(following)
        assert StopStep.DONE in reached


def test_hooks_are_bounded_by_their_own_timeouts() -> None:
    assert hook_timeout(FULL, StopStep.QUIETING) == 10.0
    assert hook_timeout(FULL, StopStep.DRAINING) == 60.0
    assert hook_timeout(FULL, StopStep.ASKING) == 10.0
    assert hook_timeout(ENDLESS, StopStep.ASKING) == HOOK_TIMEOUT_SECONDS


def test_grace_runs_from_the_request_and_indefinite_never_ends() -> None:
    assert grace_deadline(PLAIN, 100.0) == 110.0
    assert grace_deadline(ENDLESS, 100.0) is None


def test_indefinite_protects_the_session_but_not_strays() -> None:
    assert sweep_deadline(ENDLESS, 100.0, has_session_member=True, strays_since=100.0) is None
    assert sweep_deadline(ENDLESS, 100.0, has_session_member=False, strays_since=200.0) == 200 + STRAY_TIMEOUT_SECONDS
    assert sweep_deadline(PLAIN, 100.0, has_session_member=False, strays_since=200.0) == 110.0


def test_survivors_are_asked_once_and_their_helpers_only_when_orphaned() -> None:
    assert must_be_asked(is_asked=False, was_there_before_the_request=True, is_orphan=False)
    assert not must_be_asked(is_asked=True, was_there_before_the_request=True, is_orphan=True)
    assert not must_be_asked(is_asked=False, was_there_before_the_request=False, is_orphan=False)
    assert must_be_asked(is_asked=False, was_there_before_the_request=False, is_orphan=True)
