"""The queue of those that wait for an upstream: its order, its bounds, and each one's own patience."""

from __future__ import annotations

from pathlib import Path

from rollbridge.proxy.messages import Counts, Target, Upstream
from tests.proxy.rig import Rig, free_port, target
from tests.proxy.test_dispatcher import answer, down, full_backlog


def test_a_patience_that_was_made_shorter_ends_for_all(rig: Rig) -> None:
    rig.configure(hold_timeout_seconds=60.0)
    rig.route("r1", down("r1", free_port()))
    former, later = rig.client(), rig.client()
    former.get()
    rig.wait(lambda: rig.counts.held == 1)
    rig.configure(hold_timeout_seconds=0.3)
    before = rig.cpu_seconds()
    later.get()
    assert (former.read_response()[0], later.read_response()[0]) == (502, 502)
    assert rig.cpu_seconds() - before < 0.2


def test_those_that_tried_in_vain_stand_where_they_stood(tmp_path: Path) -> None:
    """Three upstreams answer no handshake: each attempt takes its time, and they end in any order."""
    with (
        full_backlog() as one,
        full_backlog() as two,
        full_backlog() as three,
        Rig(tmp_path, before="from rollbridge.proxy import dispatcher; dispatcher.CONNECT_SECONDS = 0.1") as rig,
    ):
        rig.configure(hold_timeout_seconds=60.0)
        silent = Target("r1", tuple(Upstream("127.0.0.1", port) for port in (one, two, three)))
        rig.route("r1", silent)
        clients = []
        for number in range(8):
            client = rig.client(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            clients.append(client)
            rig.wait(lambda expected=number + 1: rig.counts.requests_total == expected)  # type: ignore[misc]
        # At most one at a time tries each of the three by then.
        rig.wait(lambda: rig.counts.held >= 5)
        began = len(rig.messages)
        # Each of these tells of some that try again, or have tried in vain.
        rig.wait(lambda: sum(isinstance(one, Counts) for one in rig.messages[began:]) >= 6)
        app = rig.app()
        rig.route("r2", silent, target("r2", app))
        assert [app.accept().read_head().split(b" ")[1] for _ in clients] == [b"/%d" % n for n in range(8)]


def test_the_oldest_is_not_turned_away_for_one_that_came_while_it_tried(tmp_path: Path) -> None:
    before = (
        "from rollbridge.proxy import dispatcher as d, upstream as u; "
        "d.MAX_HELD = 1; d.CONNECT_SECONDS = 0.5; u.FIRST_RETRY_SECONDS = 0.3"
    )
    with full_backlog() as port, Rig(tmp_path, before=before) as rig:
        rig.configure(hold_timeout_seconds=60.0)
        rig.route("r1", down("r1", port))
        oldest, newer, third = rig.client(), rig.client(), rig.client()
        oldest.get(b"/oldest")
        rig.wait(lambda: rig.counts.held == 1)
        rig.wait(lambda: rig.counts.held == 0)  # it tries again
        newer.get(b"/newer")
        rig.wait(lambda: rig.counts.held == 2)  # it has tried in vain
        third.get()
        assert third.read_response()[0] == 503
        app = rig.app()
        rig.route("r2", down("r1", port), target("r2", app))
        for client, path in ((oldest, b"/oldest"), (newer, b"/newer")):
            upstream = app.accept()
            assert upstream.read_head().startswith(b"GET %b " % path)
            upstream.respond()
            assert client.read_response()[0] == 200


def test_a_host_name_is_looked_up_once_and_not_for_every_connection(tmp_path: Path) -> None:
    before = (
        "import socket; asked = []; original = socket.getaddrinfo; "
        "socket.getaddrinfo = lambda host, *rest, **more: asked.append(host) or original("
        "'127.0.0.1' if host == 'app.invalid' and len(asked) == 1 else host, *rest, **more)"
    )
    with Rig(tmp_path, before=before) as rig:
        app = rig.app()
        rig.route("r1", Target("r1", (Upstream("app.invalid", app.port),)))
        client = rig.client()
        for _ in range(3):
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")  # each on a connection of its own
            answer(app, b"found")
            assert client.read_response()[2] == b"found"
        rig.route("r1", Target("r1", (Upstream("app.invalid", app.port),)), Target("r2", ()))
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        answer(app, b"known")
        assert client.read_response()[2] == b"known"


def test_a_host_name_that_is_not_found_is_an_upstream_that_is_not_reached(rig: Rig) -> None:
    rig.configure(hold_timeout_seconds=0.1)
    rig.route("r1", Target("r1", (Upstream("nobody.invalid", 1),)))
    client = rig.client()
    client.get()
    assert client.read_response()[0] == 502
