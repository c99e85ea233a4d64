from __future__ import annotations

import errno

import pytest

from rollbridge.config.load import load_config
from rollbridge.daemon.notify import (
    Facts,
    Phase,
    encode,
    failure,
    more_time,
    news,
    socket_address,
    status_line,
    stop_seconds,
    watchdog_seconds,
)

SERVING = Facts(Phase.SERVING, active="r1")


def test_the_status_line_says_what_serves_what_drains_and_what_is_going_on() -> None:
    lines = {
        Facts(Phase.SERVING): "no release",
        Facts(Phase.SERVING, is_stopped=True): "no release: stopped",
        SERVING: "release r1 serves",
        Facts(Phase.SERVING, "r2", ("r1",)): "release r2 serves; r1 drains",
        Facts(Phase.SERVING, "r3", ("r1", "r2"), "deploy r4"): "release r3 serves; r1, r2 drain; deploy r4 in progress",
        Facts(Phase.SERVING, None, ("r1",), is_stopped=True): "no release: stopped; r1 drains",
        Facts(Phase.STARTING, operation="deploy r1"): "starting: no release; deploy r1 in progress",
        Facts(Phase.RELOADING, "r1"): "reloading: release r1 serves",
        Facts(Phase.STOPPING, "r1"): "shutting down",
    }
    assert {facts: status_line(facts) for facts in lines} == lines


def test_only_what_changed_is_news() -> None:
    assert news(None, Facts(Phase.STARTING), 1.0) == {"STATUS": "starting: no release"}
    assert news(Facts(Phase.STARTING), SERVING, 1.0) == {"READY": "1", "STATUS": "release r1 serves"}
    assert news(SERVING, SERVING, 1.0) == {}
    assert news(SERVING, Facts(Phase.SERVING, "r2"), 1.0) == {"STATUS": "release r2 serves"}


def test_a_reload_is_begun_with_the_time_and_ended_by_being_ready_again() -> None:
    reloading = Facts(Phase.RELOADING, "r1")
    begun = news(SERVING, reloading, 12.3456789)
    assert begun == {"RELOADING": "1", "MONOTONIC_USEC": "12345678", "STATUS": "reloading: release r1 serves"}
    assert news(reloading, SERVING, 13.0) == {"READY": "1", "STATUS": "release r1 serves"}


@pytest.mark.parametrize("before", [Phase.STARTING, Phase.SERVING, Phase.RELOADING])
def test_the_end_is_announced_from_wherever_it_begins(before: Phase) -> None:
    assert news(Facts(before), Facts(Phase.STOPPING), 1.0) == {"STOPPING": "1", "STATUS": "shutting down"}


def test_more_time_is_asked_for_whenever_the_manager_waits_but_not_for_ever_at_the_end() -> None:
    asked = {"EXTEND_TIMEOUT_USEC": "30000000"}
    assert more_time(Phase.STARTING, 9999.0, 45.0) == asked
    assert more_time(Phase.RELOADING, 9999.0, 45.0) == asked
    assert more_time(Phase.SERVING, 0.0, 45.0) == {}
    assert more_time(Phase.STOPPING, 0.0, 45.0) == asked
    assert more_time(Phase.STOPPING, 45.0, 45.0) == asked
    assert more_time(Phase.STOPPING, 45.1, 45.0) == {}


def test_a_stop_takes_what_the_slowest_take(tmp_path: object) -> None:
    path = f"{tmp_path}/rollbridge.toml"
    with open(path, "w") as file:
        file.write("""
[proxy]
drain_timeout = "60s"
force_stop_timeout = "10s"
[processes.web]
policy = "proxied"
command = "app"
port = "18182-18299"
[processes.slow]
command = "app"
graceful_stop = "20s"
lifecycle = { quiet_command = "true", stop_command = "true", drain_timeout = "100s" }
[processes.endless]
command = "app"
graceful_stop = "indefinite"
[processes.broker]
policy = "service"
command = "app"
graceful_stop = "7s"
""")
    config = load_config(path, {})
    in_flight, slow, broker, ending = 10, 100 + 20 + 20 + 20 + 10, 7 + 10, 15
    assert stop_seconds(config.proxy, config.processes.values()) == in_flight + slow + broker + ending
    assert stop_seconds(config.proxy, []) == in_flight + ending


def test_a_datagram_has_a_line_for_each_assignment_whatever_is_in_the_words() -> None:
    assert encode({"READY": "1", "STATUS": "fine"}) == b"READY=1\nSTATUS=fine"
    assert encode({"STATUS": "two\n  READY=1\tlines"}) == b"STATUS=two READY=1 lines"
    assert encode({"STATUS": "\udcff über"}) == "STATUS=? über".encode()
    assert len(encode({"STATUS": "x" * 10_000})) < 1000


def test_an_abstract_address_begins_with_nul_and_other_kinds_are_none_of_ours() -> None:
    assert socket_address("/run/systemd/notify") == "/run/systemd/notify"
    assert socket_address("@name") == "\0name"
    assert [socket_address(text) for text in ("", "@", "name", "vsock:2:1")] == [None] * 4


def test_the_watchdog_is_fed_twice_as_often_as_is_asked_of_this_very_process() -> None:
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 7) == 15.0
    assert watchdog_seconds({"WATCHDOG_USEC": "500000"}, 7) == 0.25
    assert watchdog_seconds({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 7) is None
    assert watchdog_seconds({}, 7) is None
    for text in ("0", "-1", "1.5", "x", ""):
        assert watchdog_seconds({"WATCHDOG_USEC": text}, 7) is None


def test_a_failed_start_names_the_reason_and_the_number_of_the_error_behind_it() -> None:
    assert failure(ValueError("no such thing")) == {"STATUS": "failed: no such thing"}
    try:
        try:
            raise PermissionError(errno.EACCES, "Permission denied")
        except OSError as cause:
            raise RuntimeError("binding 127.0.0.1:80") from cause
    except RuntimeError as error:
        assert failure(error) == {"STATUS": "failed: binding 127.0.0.1:80", "ERRNO": str(errno.EACCES)}
