"""The main job: one release after the other, and no request lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.support.application import Application
from tests.support.http import HttpConnection
from tests.support.load import Load
from tests.support.processes import is_running
from tests.support.waiting import wait_until


def web(application: Application, server: str) -> dict[str, Any]:
    return {"gunicorn": application.gunicorn, "uvicorn": application.uvicorn, "stub": application.stub}[server]()


APP_OF = {"gunicorn": "wsgi_app", "uvicorn": "asgi_app", "stub": "stub"}


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn", "stub"])
def test_three_releases_follow_each_other_under_traffic_without_a_failure(
    application: Application, server: str
) -> None:
    application.processes["web"] = web(application, server)
    for name in ("v1", "v2", "v3"):
        application.release(name, app=APP_OF[server])
    application.start("v1")
    with Load(application.port, websocket=0 if server == "gunicorn" else 1) as load:
        load.wait_for_release("v1")
        for name in ("v2", "v3"):
            answer = application.deploy(name, "--json").json
            assert answer["active_release_id"] == name
            load.wait_for_release(name)
        load.wait_for_more()
        wait_until(lambda: application.state_of("v2") == "stopped", "v2 is drained and stopped")
        load.wait_for_more()
    load.assert_no_failure()
    assert application.state_of("v1") == "stopped"
    assert application.state_of("v3") == "active"


def test_after_the_answer_of_deploy_every_new_request_meets_the_new_release(application: Application) -> None:
    application.config["proxy"]["workers"] = 2
    application.release("v0")
    application.start("v0")
    for number in range(1, 6):
        name = f"v{number}"
        application.release(name)
        application.deploy(name)
        answers = {application.serving()[0] for _ in range(20)}
        assert answers == {name}


def test_deploy_answers_with_the_release_it_replaced(application: Application) -> None:
    application.release("v1")
    application.release("v2")
    application.start()
    first = application.deploy("v1", "--json").json
    second = application.deploy("v2", "--json").json
    assert (first["status"], first["active_release_id"], first["previous_release_id"]) == ("success", "v1", None)
    assert (second["active_release_id"], second["previous_release_id"]) == ("v2", "v1")


def test_the_active_release_again_changes_nothing_unless_forced(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    before = application.serving()
    application.deploy("v1")
    assert application.serving() == before
    application.deploy("v1", "--force")
    release, pid = application.serving()
    assert release == "v1"
    assert pid != before[1]
    wait_until(lambda: not is_running(before[1]), "the replaced process of v1 has ended")


def test_an_active_id_with_another_path_is_refused(application: Application) -> None:
    application.release("v1")
    other = application.release("elsewhere")
    application.start("v1")
    result = application.run("deploy", "--release-path", str(other), "--release-id", "v1", expect=4)
    assert "v1" in result.stderr
    assert application.serving()[0] == "v1"


def test_new_websockets_meet_the_new_release_while_old_ones_live_on(application: Application) -> None:
    """With uvicorn and a client library of their own, to be sure that ours is not too lenient."""
    application.processes["web"] = application.uvicorn()
    for name in ("v1", "v2"):
        application.release(name, app="asgi_app")
    application.start("v1")
    url = f"ws://127.0.0.1:{application.port}/ws"
    with connect(url, close_timeout=1) as old:
        old.send("one")
        assert str(old.recv()).startswith("v1:")
        application.deploy("v2")
        with connect(url, close_timeout=1) as new:
            new.send("two")
            assert str(new.recv()).startswith("v2:")
        old.send("three")
        assert str(old.recv()).startswith("v1:")
        assert application.state_of("v1") == "draining"
        assert application.release_status("v1")["connections"]["websocket"] == 1
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 stops when its last WebSocket has closed")


def test_drain_timeout_cuts_a_websocket_that_never_ends(application: Application) -> None:
    application.config["proxy"]["drain_timeout"] = "500ms"
    application.release("v1")
    application.release("v2")
    application.start("v1")
    with application.websocket() as old:
        assert old.echo("one").startswith("v1:")
        application.deploy("v2")
        wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped though a WebSocket is open")
        assert old.connection.read_some() in (b"", b"\x88\x00"), "the WebSocket is closed"
    assert application.events("drain timed out")


def test_a_request_in_flight_on_the_old_release_is_answered_by_it(application: Application) -> None:
    gate = application.gate("request")
    application.release("v1")
    application.release("v2")
    application.start("v1")

    with HttpConnection(application.port) as connection:
        connection.send_request("GET", f"/gate?{gate}")
        gate.wait_reached()
        application.deploy("v2")
        assert application.state_of("v1") == "draining"
        gate.open()
        response = connection.read_response()
        assert (response.text, response.headers["x-release"]) == ("passed", "v1")
        # The same client connection goes on, with the new release.
        assert json.loads(connection.request("GET", "/").body)["release"] == "v2"
    wait_until(lambda: application.state_of("v1") == "stopped", "v1 stops after its last request")


def test_replicas_share_the_traffic_and_deploy_as_one(application: Application) -> None:
    application.processes["web"] = application.stub(replicas=2)
    application.release("v1")
    application.release("v2")
    application.start("v1")
    with Load(application.port) as load:
        load.wait_for_release("v1")
        application.deploy("v2")
        load.wait_for_release("v2")
    load.assert_no_failure()
    wanted = {process["pid"] for process in application.process_statuses("web", "v2")}
    assert len(wanted) == 2
    seen: set[int] = set()

    def all_seen() -> bool:
        seen.add(application.serving()[1])
        return seen == wanted

    wait_until(all_seen, lambda: f"both replicas {wanted} answer, not only {seen}")


def test_a_wildcard_proxy_reaches_its_upstream_on_loopback(application: Application) -> None:
    application.config["proxy"]["host"] = "0.0.0.0"
    application.release("v1")
    application.start("v1")
    status = application.status()
    assert status["proxy"]["host"] == "0.0.0.0"
    assert status["proxy"]["upstream_host"] == "127.0.0.1"
    # 127.0.0.2 is this machine too, but not an address that 127.0.0.1 would listen on.
    assert application.get(host="127.0.0.2").status == 200


def test_a_current_symlink_is_resolved_once_for_each_deploy(application: Application) -> None:
    current = application.root / "current"
    first, second = application.release("v1"), application.release("v2")
    application.start()
    current.symlink_to(first)
    application.run("deploy", "--release-path", str(current), "--release-id", "a")
    current.unlink()
    current.symlink_to(second)
    # A restart of the old release must find the old code, although the link has moved on.
    application.get("/crash")
    wait_until(lambda: application.serving()[0] == "a", "release a is back")
    assert json.loads(application.get("/where").body)["cwd"] == str(first)
    application.run("deploy", "--release-path", str(current), "--release-id", "b")
    assert json.loads(application.get("/where").body)["cwd"] == str(second)


def test_an_event_of_a_stream_arrives_before_the_stream_ends(application: Application) -> None:
    gate = application.gate("stream")
    application.release("v1")
    application.start("v1")

    with HttpConnection(application.port) as connection:
        connection.send_request("GET", f"/sse?{gate}")
        connection.read_head()
        connection.read_until(b"data: first\n\n")
        # The app sends nothing more until we say so: what we hold came through unbuffered.
        gate.wait_reached()
        gate.open()
        connection.read_until(b"data: second\n\n")
        connection.read_until(b"0\r\n\r\n")
