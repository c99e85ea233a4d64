"""What healing and checking make of what they find."""

from __future__ import annotations

from typing import Any

import pytest

from rollbridge.daemon.intent import Intent
from rollbridge.release.fleet import ReleaseIdentity
from rollbridge.takeover.healing import Need, check, has_given_up, is_serving, need_of, returnable

LAST = ReleaseIdentity("r42", "/srv/r42", "r42")


def status(active: str | None = "r42", state: str = "running", **more: Any) -> dict[str, Any]:
    release = {
        "release_id": "r42",
        "state": "active" if active else "stopped",
        "processes": [{"id": "r42.web.0", "policy": "proxied", "state": state}],
    }
    return {
        "active_release_id": active,
        "operation": None,
        "daemon": {"pid": 7, "is_shutting_down": False},
        "proxy": {"host": "127.0.0.1", "port": 8182},
        "releases": [release],
        "services": [],
        "singletons": [],
        "orphans": [],
        **more,
    }


@pytest.mark.parametrize(
    ("document", "intent", "last", "need"),
    [
        (status(), Intent.SERVE, LAST, Need.NOTHING),
        (status(None), Intent.SERVE, LAST, Need.RELEASE),
        (status(None), Intent.SERVE, None, Need.NOTHING),  # none was ever active, or an operator stopped it
        (status(None), Intent.IDLE, LAST, Need.NOTHING),
        (status(None), Intent.DOWN, LAST, Need.NOTHING),
        (status(None, operation="deploy r43"), Intent.SERVE, LAST, Need.WAIT),
        (status(daemon={"pid": 7, "is_shutting_down": True}), Intent.SERVE, LAST, Need.WAIT),
        (status(state="failed"), Intent.SERVE, LAST, Need.RELEASE),
        (status(state="starting"), Intent.SERVE, LAST, Need.NOTHING),
        ({}, Intent.SERVE, None, Need.NOTHING),
    ],
)
def test_what_a_daemon_needs(
    document: dict[str, Any], intent: Intent, last: ReleaseIdentity | None, need: Need
) -> None:
    assert need_of(document, intent, last) is need


def test_one_replica_that_runs_is_enough_to_serve() -> None:
    document = status(state="failed")
    document["releases"][0]["processes"].append({"id": "r42.web.1", "policy": "proxied", "state": "running"})
    assert not has_given_up(document)


def test_all_is_well_only_with_our_own_daemon_and_a_release_that_serves() -> None:
    assert is_serving(status(application="app"), "app")
    for other in (status(application="other"), status(None, application="app"), {}):
        assert not is_serving(other, "app")
    assert not is_serving(status(application="app", state="failed"), "app")
    assert not is_serving(status(application="app", operation="deploy r43"), "app")


def test_check_is_content_with_a_release_that_serves() -> None:
    assert check(status(), Intent.SERVE).is_ok
    assert check(status(), Intent.SERVE).text == "release r42 serves on 127.0.0.1:8182 (daemon pid 7)"


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (status(None), "no release is active"),
        (status(None, operation="deploy r43"), "deploy r43 is going on"),
        (status(state="failed"), "failed: r42.web.0"),
        (status(services=[{"id": "broker", "state": "failed"}]), "failed: broker"),
        (status(orphans=[{"id": "r41.web.0", "pid": 9}]), "nobody manages: r41.web.0 (pid 9)"),
    ],
)
def test_check_names_what_is_wrong_in_one_line(document: dict[str, Any], text: str) -> None:
    verdict = check(document, Intent.SERVE)
    assert not verdict.is_ok
    assert text in verdict.text
    assert "\n" not in verdict.text


def test_a_release_to_go_back_to_is_another_one_whose_directory_is_there() -> None:
    releases = [
        {"release_id": "r40", "release_path": "/srv/r40", "stopped_at": "x"},
        {"release_id": "r41", "release_path": "/srv/r41", "stopped_at": "x"},
        {"release_id": "r42", "release_path": "/srv/r42", "stopped_at": "x"},
    ]
    document = {"releases": releases}
    assert returnable(document, "r42", ["/srv/r40", "/srv/r41"]) == ["r41", "r40"]
    assert returnable(document, "r42", ["/srv/r40"]) == ["r40"]
    assert returnable(document, "r42", []) == []
