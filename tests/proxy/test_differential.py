"""Hostile requests through a real worker, nginx and HAProxy: refused, or forwarded as all of them read it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import h11
import pytest

from rollbridge.proxy.messages import Target, Upstream
from tests.proxy.hostile import peers, record
from tests.proxy.hostile.cases import CASES, Case
from tests.proxy.hostile.stage import (
    Described,
    RecordingApplication,
    Verdict,
    abridged,
    are_alike,
    converse,
    described,
    play,
    statuses_of,
)
from tests.proxy.rig import Rig

IDS = [case.name for case in CASES]


@pytest.fixture(scope="module")
def application() -> Iterator[RecordingApplication]:
    application = RecordingApplication()
    yield application
    application.close()


@pytest.fixture(scope="module")
def verdicts(shared_rig: Rig, application: RecordingApplication) -> dict[str, Verdict]:
    """What the worker makes of every case."""
    serve(shared_rig, application)
    return {case.name: play(shared_rig.port, application, [case.data], shuts=may_shut(case)) for case in CASES}


@pytest.fixture(scope="module")
def peer_verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Verdict]]:
    """What nginx and HAProxy make of every case: asked now if they are installed, else as they answered once."""
    with ThreadPoolExecutor() as pool:
        asked = {
            peer: pool.submit(record.play_all, peer, tmp_path_factory.mktemp(peer))
            for peer in peers.NAMES
            if peers.program(peer)
        }
        return {peer: asked[peer].result() if peer in asked else record.load(peer) for peer in peers.NAMES}


def serve(rig: Rig, application: RecordingApplication) -> None:
    rig.route("r1", Target("r1", (Upstream("127.0.0.1", application.port),)))


def may_shut(case: Case) -> bool:
    """Whether the client says that it has ended; where it is refused before, the proxy has to end the connection."""
    return case.status is None or case.is_cut


def expected(case: Case, rig: Rig) -> list[Described]:
    """What the application is to get; without any Host it is told the address that the client connected to."""
    local = f"127.0.0.1:{rig.port}"
    return [(one.method, one.path, one.host or local, abridged(one.body)) for one in case.requests]


def expected_statuses(case: Case) -> list[int]:
    return [200] * len(case.requests) + ([] if case.status is None else [case.status])


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_hostile_request_is_refused_or_read_as_it_was_meant(
    case: Case, verdicts: dict[str, Verdict], shared_rig: Rig
) -> None:
    verdict = verdicts[case.name]
    assert verdict.requests == expected(case, shared_rig)
    assert verdict.statuses == expected_statuses(case)
    assert verdict.is_ended
    if case.status is None:
        assert verdict.leftover == ""
    else:
        # What of a bad body has been passed on already never looks complete.
        assert verdict.leftover in ("", "cut")
        last_answer = verdict.client_bytes[verdict.client_bytes.rindex(b"HTTP/1.1 %d " % case.status) :]
        assert b"\r\nConnection: close\r\n" in last_answer


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_h11_reads_what_is_forwarded_alike(case: Case, verdicts: dict[str, Verdict]) -> None:
    verdict = verdicts[case.name]
    complete = iter(verdict.requests)
    for data in verdict.upstream_bytes:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=200_000)
        connection.receive_data(data)
        connection.receive_data(b"")
        request = connection.next_event()
        if case.status is not None and (isinstance(request, type) or not verdict.requests):
            continue  # a request that was cut
        assert isinstance(request, h11.Request)
        body = b""
        while isinstance(event := connection.next_event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage)
        method, path, _, payload = next(complete)
        assert (request.method.decode(), request.target.decode(), abridged(body)) == (method, path, payload)
        connection.send(h11.Response(status_code=204, headers=[]))
        connection.send(h11.EndOfMessage())
        assert connection.next_event() in (h11.PAUSED, h11.NEED_DATA) or connection.their_state is h11.CLOSED
    assert next(complete, None) is None


@pytest.mark.parametrize("peer", peers.NAMES)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_peers_read_what_is_forwarded_alike_or_refuse_it(
    case: Case, peer: str, verdicts: dict[str, Verdict], peer_verdicts: dict[str, dict[str, Verdict]]
) -> None:
    ours = verdicts[case.name].requests
    theirs = peer_verdicts[peer][case.name].requests
    if peer in case.differs:
        return
    assert all(are_alike(one, other) for one, other in zip(ours, theirs, strict=False))
    if len(theirs) > len(ours):
        assert case.status is not None  # we have refused what they went on to read


def test_every_case_comes_out_the_same_byte_by_byte(
    verdicts: dict[str, Verdict], shared_rig: Rig, application: RecordingApplication
) -> None:
    for case in CASES:
        if len(case.data) > 1000:
            continue
        pieces = [case.data[at : at + 1] for at in range(len(case.data))]
        again = play(shared_rig.port, application, pieces, shuts=may_shut(case))
        verdict = verdicts[case.name]
        # The answer to a client that goes on sending may be lost with its connection; that it is refused may not.
        assert (case.name, again.requests) == (case.name, verdict.requests)
        assert (case.name, again.statuses) == (case.name, verdict.statuses)
        assert again.is_ended
        assert again.leftover in ("", "cut")


def test_no_case_leaves_anything_on_a_kept_upstream_connection(shared_rig: Rig, verdicts: dict[str, Verdict]) -> None:
    application = RecordingApplication(closes=False)
    serve(shared_rig, application)
    sentinel = b"GET /after HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for case in CASES:
        converse(shared_rig.port, [case.data], shuts=may_shut(case))
        received, _ = converse(shared_rig.port, [sentinel], shuts=False)
        assert statuses_of(received) == [200]
        requests, application.requests = application.requests, []
        assert [described(request) for request in requests] == [
            *verdicts[case.name].requests,
            ("GET", "/after", "a", b""),
        ]
    application.close()


def test_the_worker_has_no_defect_to_report(verdicts: dict[str, Verdict], shared_rig: Rig) -> None:
    assert len(verdicts) == len(CASES)
    shared_rig.check_clean()


def test_the_stored_verdicts_cover_the_corpus() -> None:
    """Otherwise record them anew: python -m tests.proxy.hostile.record"""
    assert len(CASES) == len({case.name for case in CASES}) >= 150
    for peer in peers.NAMES:
        assert list(record.load(peer)) == IDS
