from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rollbridge.cli.render import age, render_event, render_log, render_status, shorten, size, table

NOW = datetime(2026, 11, 21, 3, 0, tzinfo=UTC).timestamp()


def process(name: str, **changes: object) -> dict[str, Any]:
    return {
        "id": name,
        "process_id": name.split(".")[1],
        "policy": "proxied",
        "state": "running",
        "failure": "",
        "pid": 3140,
        "uptime_seconds": 7440.5,
        "restarts": 0,
        "rss_bytes": 50_000_000,
        "exit_code": None,
        "exit_signal": None,
        **changes,
    }


def release(name: str, state: str, *processes: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {
        "release_id": name,
        "release_path": f"/srv/app/releases/{name}",
        "revision": name,
        "state": state,
        "connections": {"http": 3, "websocket": 1},
        "activated_at": "2026-11-21T01:00:00.000Z",
        "drain_started_at": "2026-11-21T02:59:48.000Z",
        "stopped_at": None,
        "processes": list(processes),
        **changes,
    }


def status(**changes: object) -> dict[str, Any]:
    return {
        "application": "ticket-server",
        "version": "0.1.0",
        "active_release_id": "r42",
        "daemon": {"pid": 3127, "started_at": "2026-11-20T23:48:00.000Z"},
        "proxy": {"host": "127.0.0.1", "port": 8182, "workers": [{"index": 0, "pid": 3130}, {"index": 1, "pid": 3131}]},
        "releases": [
            release("r41", "draining", process("r41.web.0", state="stopping")),
            release("r42", "active", process("r42.web.0", restarts=2)),
            release(
                "r40", "stopped", process("r40.web.0", state="stopped", pid=None), stopped_at="2026-11-20T03:00:00Z"
            ),
        ],
        "services": [process("broker.0.0", policy="service")],
        "singletons": [],
        "orphans": [],
        "last_failure": None,
        **changes,
    }


PAGE = """\
application  ticket-server
daemon       pid 3127, rollbridge 0.1.0, up 3h12m
proxy        127.0.0.1:8182, 2 workers (pid 3130, 3131)
active       r42 in /srv/app/releases/r42

RELEASE  STATE     HTTP  WEBSOCKET  SINCE
r41      draining     3          1    12s
r42      active       3          1   2h0m
r40      stopped      3          1   1d0h

PROCESS     POLICY   STATE      PID    UP  RESTARTS  MEMORY
r41.web.0   proxied  stopping  3140  2h4m         0     48M
r42.web.0   proxied  running   3140  2h4m         2     48M
broker.0.0  service  running   3140  2h4m         0     48M

r41 ends: waits for the end of r41.web.0"""


def test_the_page_of_a_running_application() -> None:
    assert render_status(status(), NOW) == PAGE


def test_an_empty_daemon_says_that_nothing_is_active() -> None:
    page = render_status(status(active_release_id=None, releases=[], services=[]), NOW)
    assert page.endswith("active       none: the proxy answers 503")


def test_a_failed_deploy_and_a_failed_process_are_explained() -> None:
    page = render_status(
        status(
            releases=[
                release(
                    "r42", "active", process("r42.worker.0", state="failed", pid=None, exit_code=3, failure="gave up")
                )
            ],
            last_failure={
                "at": "2026-11-21T02:56:00.000Z",
                "release_id": "r43",
                "phase": "health",
                "message": "release r43 did not get healthy: r43.web.0 after 30 s: HTTP 500. "
                "Release r42 is still serving.",
                "process": "r43.web.0",
                "probe": "HTTP 500 in 3 ms",
                "lines": [f"line {number}" for number in range(12)] + ["\x1b]0;title\x07"],
            },
        ),
        NOW,
    )
    assert "r42.worker.0: gave up; last exit code 3" in page
    assert page.partition("last failure")[2].splitlines() == [
        ": deploy of r43, 4m0s ago, in phase health",
        "  release r43 did not get healthy: r43.web.0 after 30 s: HTTP 500. Release r42",
        "  is still serving.",
        "  last probe: HTTP 500 in 3 ms",
        *[f"  | line {number}" for number in range(3, 12)],
        "  | ?]0;title?",
    ]


def test_long_names_keep_the_page_within_80_columns() -> None:
    name = "2026-11-21T01.02.03-" + "f" * 180
    page = render_status(
        status(
            active_release_id=name,
            releases=[
                release(name, "active", *(process(f"{name}.worker.{n}", restarts=10**6, pid=4194304) for n in range(3)))
            ],
        ),
        NOW,
    )
    rows = [line for line in page.splitlines() if not line.startswith(("active", "application"))]
    assert max(len(row) for row in rows) <= 80
    assert ".worker.2" in page, "what tells replicas apart was cut away"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"releases": None, "daemon": None, "proxy": None, "services": 7},
        {"releases": [{}], "singletons": [{}], "last_failure": {}, "orphans": [{}]},
        {"daemon": {"started_at": "yesterday"}, "proxy": {"workers": [1, 2], "host": "::1"}},
        {"last_failure": {"lines": None, "at": 7.5}},
    ],
)
def test_a_document_of_another_version_is_shown_as_far_as_it_goes(document: dict[str, Any]) -> None:
    assert render_status(document, NOW)


def test_what_is_going_on_is_shown() -> None:
    page = render_status(status(operation="deploy r43", daemon={"pid": 1, "is_shutting_down": True}), NOW)
    assert "now          deploy r43\n" in page and "now          shutting down\n" in page
    assert "orphans: web (pid 7)" in render_status(status(orphans=[{"id": "web", "pid": 7}]), NOW)


def test_ages() -> None:
    spans = {0: "0s", -5: "0s", 59.9: "59s", 60: "1m0s", 3599: "59m59s", 3600: "1h0m", 86399: "23h59m", 270000: "3d3h"}
    assert {seconds: age(seconds) for seconds in spans} == spans
    assert age(None) == age("x") == age(True) == "-"


def test_sizes() -> None:
    sizes = {0: "0B", 999: "999B", 1000: "1.0K", 10240: "10K", 1023 * 1024: "1.0M", 50_000_000: "48M", 2**40: "1.0T"}
    assert {count: size(count) for count in sizes} == sizes
    assert size(None) == "-"


def test_shortening_keeps_both_ends() -> None:
    assert [shorten("abcdefgh", width) for width in (8, 7, 6, 5)] == ["abcdefgh", "abc..gh", "ab..gh", "ab..h"]


def test_a_table_without_rows_is_nothing() -> None:
    assert table(("A", "B"), [], "<>", 80) == ""


def test_an_event_is_one_line_that_cannot_act_on_a_terminal() -> None:
    event = {
        "at": "2026-11-21T01:02:03.456Z",
        "message": "process exited",
        "data": {
            "process": "r1.web.0",
            "code": 3,
            "why": "two words",
            "none": None,
            "tree": {"a": 1},
            "esc": "\x1b[2J",
        },
    }
    line = render_event(event)
    assert line == (
        "2026-11-21T01:02:03.456Z  process exited  "
        'process=r1.web.0 code=3 why="two words" tree={"a": 1} esc="\\u001b[2J"'
    )
    assert render_event({"at": "x", "message": "m"}) == "x  m"


def test_a_log_line_is_as_it_was_printed() -> None:
    entry = {"at": "x", "process": "r1.web.0", "stream": "stderr", "line": "  \x1b[31mred\x1b[0m "}
    assert render_log(entry) == "x r1.web.0 !   \x1b[31mred\x1b[0m "
    assert render_log({**entry, "stream": "stdout", "line": ""}) == "x r1.web.0 | "
