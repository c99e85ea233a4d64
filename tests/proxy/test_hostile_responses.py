"""Hostile responses through a real worker: 502, or cut where the client sees it, and no byte for anybody else."""

from __future__ import annotations

import contextlib

import pytest

from tests.fuzz.second_reading import read_answers
from tests.proxy.hostile.responses import CASES, Case
from tests.proxy.rig import App, Peer, Rig

NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def answer(case: Case, app: App, client: Peer, pieces: list[bytes]) -> tuple[Peer, bytes]:
    """Be the application for ``case``; return its connection and what the client has read of the answer by then."""
    upstream = app.accept()
    upstream.read_head()
    with contextlib.suppress(OSError):  # the proxy may have had enough of it
        for piece in pieces:
            upstream.send(piece)
    begun = b""
    if case.is_cut and case.body is not None:
        begun = client.read_head()
        begun += client.read_until(case.body[-1:])
        upstream.send(case.late)
    if case.ending == "RST":
        upstream.reset()
    elif case.ending == "FIN":
        upstream.shut()
    return upstream, begun


def play(case: Case, rig: Rig, pieces: list[bytes]) -> None:
    """One client asks, gets what becomes of ``case``, and asks for something else on the same connection."""
    app = rig.app()
    rig.serve(app)
    client = rig.client(case.method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream, received = answer(case, app, client, pieces)
    if not case.is_cut:
        client.send(NEXT)
        following = upstream if case.is_reused else app.accept()
        assert following.read_head().startswith(b"GET /next ")
        following.respond(b"good")
    is_reset = False
    try:
        received += client.read_to_end()
    except ConnectionResetError:
        is_reset = True
        received += client.buffer
    answers, extra = read_answers(received, [case.method, b"GET"])
    assert extra == b""
    first = answers[0]
    assert first.response.status == case.status
    if case.is_cut:
        assert len(answers) == 1
        assert first.end == "cut" or is_reset
    else:
        assert not is_reset
        assert [one.end for one in answers] == ["framed", "framed"]
        assert first.payload == case.body or (case.body is None and first.payload.startswith(b"502 Bad Gateway: "))
        assert answers[1].payload == b"good"
    if case.ending != "RST" and not case.is_reused:
        assert upstream.is_closed()
    assert not app.has_connection()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_response_harms_nobody(case: Case, rig: Rig) -> None:
    play(case, rig, [case.data])


def is_judged_by_its_head(case: Case) -> bool:
    """Whether what becomes of ``case`` does not depend on how much of it has arrived when its head is complete."""
    return case.status != 502 or not case.data.partition(b"\r\n\r\n")[2]


SHORT = [case for case in CASES if len(case.data) < 300 and (case.is_cut or case.status == 502 or case.is_reused)]


@pytest.mark.parametrize("case", [case for case in SHORT if is_judged_by_its_head(case)], ids=lambda case: case.name)
def test_hostile_response_harms_nobody_byte_by_byte(case: Case, rig: Rig) -> None:
    """Not those with bytes after a good response: late ones are another response's, for all that HTTP/1.1 can say."""
    play(case, rig, [case.data[at : at + 1] for at in range(len(case.data))])


@pytest.mark.parametrize(
    "case", [case for case in SHORT if not is_judged_by_its_head(case)], ids=lambda case: case.name
)
def test_a_body_that_goes_wrong_byte_by_byte_is_a_502_or_visibly_cut(case: Case, rig: Rig) -> None:
    """Which of the two depends on whether the head had been passed on when the fault arrived."""
    app = rig.app()
    rig.serve(app)
    client = rig.client(case.method + b" / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    upstream, received = answer(case, app, client, [case.data[at : at + 1] for at in range(len(case.data))])
    is_reset = False
    try:
        received += client.read_to_end()
    except ConnectionResetError:
        is_reset = True
        received += client.buffer
    answers, extra = read_answers(received, [case.method])
    assert extra == b""
    assert len(answers) <= 1
    if answers and answers[0].response.status == 502:
        assert answers[0].payload.startswith(b"502 Bad Gateway: ")
    else:
        assert is_reset or answers[0].end == "cut"
    assert upstream.is_closed()
