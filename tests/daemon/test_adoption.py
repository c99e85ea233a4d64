from __future__ import annotations

import pytest

from rollbridge.daemon.recorded import state_after
from rollbridge.release.states import ReleaseState


@pytest.mark.parametrize("state", list(ReleaseState))
def test_in_the_same_boot_every_release_is_what_it_was(state: ReleaseState) -> None:
    assert state_after(state, is_same_boot=True) is state


def test_a_reboot_ends_what_ran_and_fails_what_was_coming_up() -> None:
    assert {state.value: state_after(state, is_same_boot=False).value for state in ReleaseState} == {
        "starting": "failed",
        "active": "stopped",
        "draining": "stopped",
        "stopped": "stopped",
        "failed": "failed",
    }
