"""A failed request is a kill's, exactly, or a violation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.attribution import Failure, Kill, Known, Life, Span, blame, judge_command, judge_lives

WORKER = Kill("proxy worker", "5-50", at=10.0, gone_at=10.01, ports=frozenset({40_001, 40_002}))
WEB = Kill("web", "7-70", at=10.0, gone_at=10.01, release="r1")
DAEMON = Kill("daemon", "1-10", at=10.0, gone_at=10.01)
CUT = Failure(
    "keep-alive",
    "k.1",
    "closed by the server after b''",
    status=0,
    retry_after="",
    who="",
    port=40_001,
    connected_at=5.0,
    began_at=9.99,
    ended_at=10.02,
)
NO_ANSWER = replace(
    CUT, status=502, reason="502: 502 Bad Gateway: the application closed the connection without an answer."
)
HELD_OUT = replace(
    CUT,
    status=502,
    reason="502: 502 Bad Gateway: the application does not accept connections.",
    retry_after="1",
    began_at=10.5,
    ended_at=25.5,
)
GOING_AWAY = replace(CUT, kind="websocket", reason="closed by the app: stopping", who="7-70")


def known(*kills: Kill, **more: object) -> Known:
    facts = {"begun_by": {}, "terminated_at": {}, "listened": (), "hold_seconds": 15.0, **more}
    return Known(kills, **facts)  # type: ignore[arg-type]  # spelled out above


def test_a_connection_that_a_killed_worker_held_may_end() -> None:
    assert blame(CUT, known(WORKER)) == "kill of proxy worker 5-50"


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(replace(CUT, port=40_003), id="another worker held it"),
        pytest.param(replace(CUT, connected_at=10.02), id="opened after the kill, on a port that came again"),
        pytest.param(replace(CUT, began_at=9.0, ended_at=9.9), id="over before the kill"),
        pytest.param(replace(CUT, reason="connect: [Errno 111] Connection refused"), id="not even accepted"),
        pytest.param(replace(CUT, reason="no byte for 90 s"), id="never answered"),
        pytest.param(NO_ANSWER, id="answered by the proxy"),
        pytest.param(replace(NO_ANSWER, status=503, reason="503: no release is active here"), id="503"),
    ],
)
def test_other_failures_are_not_the_killed_workers(failure: Failure) -> None:
    assert blame(failure, known(WORKER)) is None


def test_nothing_is_the_killed_daemons_fault() -> None:
    for failure in (CUT, NO_ANSWER, HELD_OUT, GOING_AWAY):
        assert blame(failure, known(DAEMON)) is None


def test_what_a_killed_web_process_was_answering_may_fail() -> None:
    assert blame(NO_ANSWER, known(WEB, begun_by={"k.1": ["7-70"]})) == "kill of web 7-70"
    assert blame(replace(CUT, who="7-70"), known(WEB)) == "kill of web 7-70"


def test_what_waited_in_a_killed_web_processs_queue_may_fail() -> None:
    assert blame(NO_ANSWER, known(WEB)) == "kill of web 7-70"


def test_a_repeated_request_belongs_to_the_last_that_began_it() -> None:
    assert blame(NO_ANSWER, known(WEB, begun_by={"k.1": ["6-60", "7-70"]})) == "kill of web 7-70"
    assert blame(NO_ANSWER, known(WEB, begun_by={"k.1": ["7-70", "8-80"]})) is None


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(replace(CUT, who="8-80"), id="a living one was answering"),
        pytest.param(CUT, id="cut by whom, nobody knows"),
        pytest.param(replace(NO_ANSWER, began_at=10.02), id="sent after the kill"),
        pytest.param(replace(NO_ANSWER, began_at=9.0, ended_at=9.9), id="over before the kill"),
        pytest.param(replace(NO_ANSWER, status=503, reason="503: no release is active here"), id="503"),
        pytest.param(replace(NO_ANSWER, status=504, reason="504: no answer in time"), id="504"),
        pytest.param(replace(CUT, reason="wrong body: 3 bytes for 4", status=200), id="wrong body"),
    ],
)
def test_other_failures_are_not_the_killed_web_processs(failure: Failure) -> None:
    assert blame(failure, known(WEB)) is None


def test_a_websocket_is_one_request_from_its_opening_on() -> None:
    late_message = replace(CUT, kind="websocket", who="7-70", began_at=10.05, ended_at=10.06)
    assert blame(late_message, known(WEB)) == "kill of web 7-70"
    assert blame(replace(late_message, connected_at=10.04), known(WEB)) is None


def test_a_request_held_for_the_whole_timeout_may_get_502() -> None:
    assert blame(HELD_OUT, known(WEB)) == "kill of web 7-70: held for 15 s, nobody listened"
    # One that listened just before the end was not seen yet.
    assert blame(HELD_OUT, known(WEB, listened=[("r1", 25.0)])) is not None


@pytest.mark.parametrize(
    ("failure", "listened"),
    [
        pytest.param(replace(HELD_OUT, ended_at=20.0), (), id="not held long enough"),
        pytest.param(replace(HELD_OUT, retry_after=""), (), id="does not say when to come again"),
        pytest.param(HELD_OUT, (("r1", 12.0),), id="somebody listened meanwhile"),
        pytest.param(replace(HELD_OUT, began_at=8.0, ended_at=23.0), (), id="held since before the kill"),
    ],
)
def test_other_502_of_held_requests_are_violations(failure: Failure, listened: tuple[tuple[str, float], ...]) -> None:
    assert blame(failure, known(WEB, listened=listened)) is None


def test_a_retired_web_process_may_close_its_websockets_once_it_was_told() -> None:
    assert blame(GOING_AWAY, known(terminated_at={"7-70": 10.0})) == "retirement of web 7-70"
    assert blame(GOING_AWAY, known(terminated_at={"7-70": 10.03})) is None
    assert blame(GOING_AWAY, known(terminated_at={"8-80": 10.0})) is None
    assert blame(replace(GOING_AWAY, reason=CUT.reason), known(terminated_at={"7-70": 10.0})) is None


# --- commands


def test_a_command_succeeds_unless_something_was_killed_meanwhile() -> None:
    span = Span("deploy", 9.0, 11.0)
    assert judge_command(span, 0, "", [], fails=False) == ""
    assert judge_command(span, 1, "", [WEB], fails=False) == ""
    assert "nothing had been killed" in judge_command(span, 1, "", [], fails=False)
    assert "nothing had been killed" in judge_command(Span("deploy", 10.5, 11.0), 1, "", [WEB], fails=False)
    assert judge_command(span, 2, "", [WEB], fails=False) != ""
    assert judge_command(span, -9, "", [WEB], fails=False) != ""


def test_a_deploy_that_cannot_succeed_does_not() -> None:
    span = Span("failing deploy", 9.0, 11.0)
    assert judge_command(span, 1, "", [], fails=True) == ""
    assert judge_command(span, 0, "", [], fails=True) != ""
    assert judge_command(span, 0, "", [WEB], fails=True) != ""


def test_a_traceback_is_never_an_answer() -> None:
    assert judge_command(Span("deploy", 9.0, 11.0), 0, "Traceback (most recent call last):", [WEB], fails=False) != ""


# --- lives


def test_whoever_ends_was_killed_told_or_says_why() -> None:
    lives = [
        Life("start", "web", "7-70", 1.0, "r1"),
        Life("start", "cron", "8-80", 1.0, "r1"),
        Life("term", "cron", "8-80", 5.0, "r1"),
        Life("start", "web", "9-90", 6.0, "r2"),
        Life("end", "web", "9-90", 6.1, "r2", "exits with 3, as its release says"),
    ]
    assert judge_lives(lives, [WEB], []) == []
    assert judge_lives(lives, [], []) == ["web 7-70 of r1 ended, and nobody of us killed it"]


def test_a_second_one_of_a_single_kind_is_a_violation() -> None:
    lives = [Life("double", "cron", "8-80", 1.0, "r1", "7-70"), Life("end", "cron", "8-80", 2.0)]
    assert judge_lives(lives, [], []) == ["two at once: cron 8-80 found the lock held by 7-70"]


def test_a_service_is_told_to_stop_only_where_it_has_to_be() -> None:
    lives = [Life("term", "broker", "8-80", 5.0)]
    assert judge_lives(lives, [], [Span("restart", 4.0, 6.0)]) == []
    assert len(judge_lives(lives, [], [Span("restart", 5.5, 6.0), Span("upgrade", 4.0, 6.0)])) == 1
