from __future__ import annotations

import pytest

from rollbridge.release.states import (
    TRANSITIONS,
    IllegalTransition,
    ReleaseEvent,
    ReleaseState,
    next_state,
)


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(ReleaseState)


def test_a_release_lives_from_start_to_stop() -> None:
    state = ReleaseState.STARTING
    for event in (ReleaseEvent.SWITCHED, ReleaseEvent.RETIRED, ReleaseEvent.REAPED):
        state = next_state(state, event)
    assert state is ReleaseState.STOPPED


def test_a_draining_release_can_become_active_again() -> None:
    assert next_state(ReleaseState.DRAINING, ReleaseEvent.SWITCHED) is ReleaseState.ACTIVE


@pytest.mark.parametrize("state", [ReleaseState.STOPPED, ReleaseState.FAILED])
def test_an_ended_release_is_never_switched_to(state: ReleaseState) -> None:
    with pytest.raises(IllegalTransition, match=state.value):
        next_state(state, ReleaseEvent.SWITCHED)


def test_a_starting_release_cannot_be_retired_it_can_only_fail() -> None:
    with pytest.raises(IllegalTransition):
        next_state(ReleaseState.STARTING, ReleaseEvent.RETIRED)
