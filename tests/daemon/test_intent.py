"""What is wanted, across shutdowns and starts."""

from __future__ import annotations

import pytest

from rollbridge.daemon.intent import Intent, intent_at_start, intent_now, read_intent


@pytest.mark.parametrize("intent", list(Intent))
def test_an_intent_is_read_back_as_it_was_written(intent: Intent) -> None:
    assert read_intent(intent.value) is intent


@pytest.mark.parametrize("wrong", [None, "", "DOWN", 1, [], {"intent": "down"}])
def test_a_state_file_that_names_no_intent_is_to_serve(wrong: object) -> None:
    assert read_intent(wrong) is Intent.SERVE


def test_a_start_after_a_shutdown_brings_no_release_back() -> None:
    assert intent_at_start(Intent.DOWN) is Intent.IDLE
    assert intent_at_start(Intent.IDLE) is Intent.IDLE
    assert intent_at_start(Intent.SERVE) is Intent.SERVE


def test_a_release_that_serves_is_wanted_from_then_on() -> None:
    assert intent_now(Intent.IDLE, has_active=True) is Intent.SERVE
    assert intent_now(Intent.IDLE, has_active=False) is Intent.IDLE
    assert intent_now(Intent.SERVE, has_active=False) is Intent.SERVE


def test_a_shutdown_is_not_forgotten_while_the_release_still_serves() -> None:
    assert intent_now(Intent.DOWN, has_active=True) is Intent.DOWN
