from __future__ import annotations

import pytest

from rollbridge.daemon.adoption import switched_to
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


STARTING, ACTIVE, DRAINING = ReleaseState.STARTING, ReleaseState.ACTIVE, ReleaseState.DRAINING


@pytest.mark.parametrize(
    ("actives", "recorded", "expected"),
    [
        ([], {"r1": ACTIVE, "r2": STARTING}, None),
        ([None], {"r1": ACTIVE, "r2": STARTING}, None),
        (["r1"], {"r1": ACTIVE, "r2": STARTING}, None),
        (["r2"], {"r1": ACTIVE, "r2": STARTING}, "r2"),
        (["r1", "r2"], {"r1": ACTIVE, "r2": STARTING}, "r2"),  # the first worker had switched, the other had not
        (["r2"], {"r1": DRAINING, "r2": ACTIVE}, None),
        (["r1"], {"r1": DRAINING, "r2": ACTIVE}, "r1"),  # a rollback
        (["r1", "r2"], {"r1": DRAINING, "r2": ACTIVE}, None),  # one that had missed the switch, or the rollback
        (["r2"], {"r2": STARTING}, "r2"),
        (["r3"], {"r1": ACTIVE}, None),
    ],
)
def test_a_switch_that_was_not_written_down_is_seen_by_where_requests_go(
    actives: list[str | None], recorded: dict[str, ReleaseState], expected: str | None
) -> None:
    assert switched_to(actives, recorded) == expected
