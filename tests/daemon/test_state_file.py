from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from rollbridge.daemon.recorded import read_recorded
from rollbridge.daemon.state_file import FORMAT, StateUnusable, decode_state, encode_state, load_state, write_state


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = str(tmp_path / "state.json")
    write_state(path, encode_state({"application": "shop"}))
    assert load_state(path).state == {"format": FORMAT, "application": "shop"}


def test_the_file_is_for_its_owner_only_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_state(str(path), b"{}")
    write_state(str(path), b"{}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_no_file_is_an_empty_state_without_complaint(tmp_path: Path) -> None:
    loaded = load_state(str(tmp_path / "state.json"))
    assert (loaded.state, loaded.complaint) == ({}, "")


def test_a_damaged_file_is_kept_aside_and_named_each_time_under_a_new_name(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for number in (1, 2):
        path.write_bytes(b'{"format": 1, "rel')
        loaded = load_state(str(path))
        assert loaded.state == {}
        assert f"state.json.unusable-{number}" in loaded.complaint
        assert (tmp_path / f"state.json.unusable-{number}").read_bytes() == b'{"format": 1, "rel'
        assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_state(str(path), encode_state({"application": "shop"}))
    os.chown(path, 12345, 12345)
    loaded = load_state(str(path))
    assert loaded.state == {}
    assert "uid 12345" in loaded.complaint


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"format": 99}')
    assert "format 99" in load_state(str(path)).complaint


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'{"a": 1}', b'{"format": "1"}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_state_is_unusable_never_an_accident(data: bytes) -> None:
    with pytest.raises(StateUnusable):
        decode_state(data)


def test_a_state_truncated_anywhere_is_unusable_or_whole() -> None:
    data = encode_state({"application": "shop", "releases": [{"key": "r1"}]})
    whole = decode_state(data)
    for length in range(len(data) - 1):
        with pytest.raises(StateUnusable):
            decode_state(data[:length])
    assert decode_state(data[:-1]) == whole


def test_reading_recorded_state_skips_what_makes_no_sense() -> None:
    state: dict[str, object] = {
        "boot_id": 7,
        "releases": [
            {"key": "r1", "release_id": "r1", "release_path": "/r1", "revision": "x", "state": "active", "ports": 3},
            {"key": "r2", "release_id": "r2", "release_path": "/r2", "revision": "x", "state": "nonsense"},
            "text",
            {"key": "r3"},
        ],
        "workers": [{"index": 0, "pid": 5, "start_ticks": 9, "socket": "/s"}, {"index": "0"}, None],
        "shared_ports": {"broker": 7331, "bad": 0, "worse": "80", "flag": True},
        "last_active": {"release_id": "r1", "release_path": "/r1", "revision": "x"},
        "events": "none",
    }
    recorded = read_recorded(state)
    assert recorded.boot_id == ""
    assert [release.key for release in recorded.releases] == ["r1"]
    assert recorded.releases[0].ports == {}
    assert [worker.pid for worker in recorded.workers] == [5]
    assert recorded.shared_ports == {"broker": 7331}
    assert recorded.last_active is not None
    assert recorded.events == ()


@pytest.mark.parametrize("wrong", [None, 1, "x", [], {}, [1], [[]], {"a": {}}, True])
def test_any_field_may_be_of_any_type(wrong: object) -> None:
    fields = ("boot_id", "releases", "services", "singletons", "workers", "shared_ports", "last_active", "events")
    for field in (*fields, "last_failure", "idle_reason", "last_ports"):
        read_recorded(json.loads(json.dumps({field: wrong})))


def test_a_path_that_is_not_utf_8_can_be_written_and_read_back(tmp_path: Path) -> None:
    path = str(tmp_path / "state.json")
    strange = b"/srv/r\xff".decode("utf-8", "surrogateescape")
    write_state(path, encode_state({"release_path": strange}))
    assert load_state(path).state["release_path"] == strange


def test_events_that_are_encoded_already_are_put_in_as_they_are() -> None:
    state = decode_state(encode_state({"application": "shop"}, ['{"message":"one"}', '{"message":"two"}']))
    assert state == {"format": FORMAT, "application": "shop", "events": [{"message": "one"}, {"message": "two"}]}
