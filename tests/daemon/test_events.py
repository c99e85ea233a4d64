from __future__ import annotations

import json
import os

from rollbridge.daemon.events import KEPT_EVENTS, Event, EventLog, format_utc, without_commands


def test_times_are_utc_with_milliseconds() -> None:
    assert format_utc(0.0) == "1970-01-01T00:00:00.000Z"
    assert format_utc(1_700_000_000.9996) == "2023-11-14T22:13:20.999Z"


def test_an_event_is_one_line_of_json_in_the_log() -> None:
    read, write = os.pipe()
    EventLog(write, lambda: 0.0).record("line\nbreak", {"id": "r1"})
    os.close(write)
    with os.fdopen(read) as log:
        lines = log.read().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"at": "1970-01-01T00:00:00.000Z", "message": "line\nbreak", "data": {"id": "r1"}}
    ]


def test_only_the_last_thousand_are_kept() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    log = EventLog(null, lambda: 0.0)
    for number in range(KEPT_EVENTS + 5):
        log.record("tick", {"number": number})
    kept = log.last(KEPT_EVENTS * 2)
    assert len(kept) == KEPT_EVENTS
    assert kept[0]["data"] == {"number": 5}
    assert log.last(0) == []
    assert len(log.last(1)) == 1
    os.close(null)


def test_a_full_disk_does_not_stop_the_daemon_from_remembering() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    log = EventLog(full, lambda: 0.0)
    log.record("tick", {})
    assert log.lost_lines == 1
    assert len(log.last(10)) == 1
    os.close(full)


def test_followers_hear_until_they_leave() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    log = EventLog(null, lambda: 0.0)
    heard: list[object] = []
    leave = log.subscribe(lambda event: heard.append(event["message"]))
    log.record("one", {})
    leave()
    log.record("two", {})
    assert heard == ["one"]
    os.close(null)


def test_restored_events_come_before_our_own() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    log = EventLog(null, lambda: 0.0)
    log.record("new", {})
    log.restore([{"at": "x", "message": "old", "data": {}}])
    assert [event["message"] for event in log.last(10)] == ["old", "new"]
    assert [json.loads(text)["message"] for text in log.encoded()] == ["old", "new"]
    os.close(null)


def test_the_state_file_keeps_an_event_without_command_lines() -> None:
    event: Event = {"at": "x", "message": "processes killed", "data": {"pids": [7], "commands": ["app --password=x"]}}
    assert without_commands(event) == {"at": "x", "message": "processes killed", "data": {"pids": [7]}}
    assert event["data"] == {"pids": [7], "commands": ["app --password=x"]}
