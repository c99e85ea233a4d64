"""A worker that another has taken over from: it accepts nothing, finishes everything, and ends by itself."""

from __future__ import annotations

import socket
from pathlib import Path

from rollbridge.proxy.messages import Ack, Hello, Retire, Welcome
from tests.proxy.rig import Peer, Rig
from tests.proxy.test_worker import SWITCH, UPGRADE


def retired(rig: Rig) -> None:
    """Tell the worker to retire, and wait until it has done so."""
    rig.send(Retire())
    rig.messages.clear()
    rig.send(Hello())
    rig.wait_message(Welcome, lambda welcome: welcome.is_retiring)


def test_a_worker_with_nothing_to_do_ends_at_once(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.serve(rig.app())
        rig.send(Retire())
        assert rig.process.wait(10) == 0
        assert not Path(rig.socket_path).exists()


def test_an_idle_connection_stays_open_for_the_request_that_may_be_on_its_way(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        app = rig.app()
        rig.serve(app)
        client = rig.client()
        client.get()
        upstream = app.accept()
        upstream.read_head()
        upstream.respond(b"one")
        assert client.read_response()[2] == b"one"
        retired(rig)
        assert client.is_quiet()
        client.get()
        upstream.read_head()
        upstream.respond(b"two")
        status, head, body = client.read_response()
        assert (status, body) == (200, b"two")
        assert b"Connection: close" in head
        assert client.is_closed()
        client.close()
        assert rig.process.wait(10) == 0


def test_a_silent_connection_goes_after_the_idle_timeout(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.configure(idle_timeout_seconds=0.2)
        rig.serve(rig.app())
        client = rig.client()
        rig.wait(lambda: rig.counts.clients == 1)
        rig.send(Retire())
        assert client.is_closed()
        client.close()
        assert rig.process.wait(10) == 0


def test_tunnels_and_requests_in_flight_live_on_and_are_counted(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        app = rig.app()
        rig.serve(app)
        tunneled, busy = rig.client(UPGRADE), rig.client()
        far = app.accept()
        far.read_head()
        far.send(SWITCH)
        tunneled.read_head()
        busy.get()
        upstream = app.accept()
        upstream.read_head()
        rig.wait_counts("r1", 1, 1)
        retired(rig)
        upstream.respond(b"done")
        assert busy.read_response()[2] == b"done"
        rig.wait_counts("r1", 0, 1)
        tunneled.send(b"still here")
        assert far.read(10) == b"still here"
        busy.close()
        assert rig.process.poll() is None
        tunneled.close()
        far.close()
        assert rig.process.wait(10) == 0


def test_it_obeys_routes_and_accepts_nobody_however_often_it_is_told(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        first, second = rig.app(), rig.app()
        rig.serve(first)
        client = rig.client()
        rig.wait(lambda: rig.counts.clients == 1)
        retired(rig)
        retired(rig)
        rig.serve(second, key="r2")
        rig.wait_message(Ack)
        waiting = rig.client()
        waiting.get()
        client.get()
        upstream = second.accept()
        upstream.read_head()
        upstream.respond(b"new")
        assert client.read_response()[2] == b"new"
        assert waiting.is_quiet()
        assert rig.process.wait(10) == 0


def test_a_later_supervisor_learns_that_it_retires_and_gets_no_listener(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.serve(rig.app())
        client = rig.client()
        rig.wait(lambda: rig.counts.clients == 1)
        retired(rig)
        link = socket.socket(socket.AF_UNIX)
        link.connect(rig.socket_path)
        rig.use_link(link)
        rig.messages.clear()
        rig.send(Hello(want_listener=True))
        assert rig.wait_message(Welcome).is_retiring
        rig.send(Retire())
        assert Peer(client.sock).is_quiet()
        client.close()
        assert rig.process.wait(10) == 0
