from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, cast

import pytest

from rollbridge import __version__
from rollbridge.daemon.recorded import read_recorded
from rollbridge.daemon.state_file import load_state, previous_path, write_state
from rollbridge.daemon.state_format import (
    FORMAT,
    UPGRADES,
    State,
    StateNewer,
    StateUnusable,
    Upgrade,
    decode_state,
    encode_state,
    upgraded,
)

OURS = {"format": FORMAT, "version": __version__}


def test_what_is_written_is_read_back_with_who_wrote_it(tmp_path: Path) -> None:
    path = str(tmp_path / "state.json")
    write_state(path, encode_state({"application": "shop"}))
    loaded = load_state(path)
    assert loaded.state == {**OURS, "application": "shop"}
    assert loaded.is_whole


def test_what_is_read_can_be_written_again(tmp_path: Path) -> None:
    data = encode_state({"application": "shop", "version": "old", "format": 0, "seal": "x"})
    assert encode_state(decode_state(data)) == data


def test_the_files_are_for_their_owner_only_and_no_temporary_is_left(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for number in range(4):
        write_state(str(path), b"%d" % number)
        assert path.read_bytes() == b"%d" % number
        if number:
            assert Path(previous_path(str(path))).read_bytes() == b"%d" % (number - 1)
    assert [stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()] == [0o600] * 2
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["state.json", "state.json.previous"]


def test_no_file_is_an_empty_state_without_complaint_and_the_one_before_it_is_not_brought_back(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for _ in range(2):
        write_state(str(path), encode_state({"application": "shop"}))
    path.unlink()
    loaded = load_state(str(path))
    assert (loaded.state, loaded.complaint, loaded.is_there, loaded.is_whole) == ({}, "", False, False)


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


def test_of_a_damaged_file_the_one_before_it_takes_the_place(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_state(str(path), encode_state({"written_at": "noon"}))
    write_state(str(path), encode_state({"written_at": "one"}))
    damage = path.read_bytes()[:-9]
    path.write_bytes(damage)
    loaded = load_state(str(path))
    assert loaded.state == {**OURS, "written_at": "noon"}
    assert not loaded.is_whole
    assert "its seal does not match" in loaded.complaint and "the one before it, of noon" in loaded.complaint
    assert (tmp_path / "state.json.unusable-1").read_bytes() == damage
    assert load_state(str(path)).state == loaded.state
    write_state(str(path), encode_state({"written_at": "two"}))
    path.write_bytes(b"")
    assert load_state(str(path)).state == loaded.state


def test_when_both_are_damaged_there_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for _ in range(2):
        write_state(str(path), encode_state({}))
    for entry in tmp_path.iterdir():
        entry.write_bytes(b"?")
    loaded = load_state(str(path))
    assert (loaded.state, loaded.is_whole, loaded.is_there) == ({}, False, True)
    assert "unusable-1" in loaded.complaint


def test_a_pipe_in_the_place_of_the_file_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    os.mkfifo(path)
    assert "not a regular file" in load_state(str(path)).complaint


def test_a_newer_format_is_named_with_who_wrote_it_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"format": 99, "version": "9.9.9"}')
    with pytest.raises(StateUnusable, match="seal is broken"):
        decode_state(path.read_bytes())
    sealed = encode_state({}).replace(b'"format":1,', b'"format":99,').partition(b'",')[2]
    data = b'{"seal":"sha256:' + hashlib.sha256(sealed).hexdigest().encode() + b'",' + sealed
    path.write_bytes(data)
    with pytest.raises(StateNewer, match=rf"rollbridge {__version__} wrote it in format 99.* up to format {FORMAT}"):
        load_state(str(path))
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("state.json", data)]


def test_an_older_format_is_brought_up_one_step_at_a_time() -> None:
    upgrades: dict[int, Upgrade] = {
        1: lambda state: {"was": [1], "kept": state["kept"]},
        2: lambda state: {**state, "was": [*cast("list[int]", state["was"]), 2]},
    }
    first: State = {"format": 1, "kept": True}
    assert upgraded(first, 3, upgrades) == {"format": 3, "was": [1, 2], "kept": True}
    assert upgraded({"format": 3}, 3, upgrades) == {"format": 3}
    for unknown in (0, -1):
        with pytest.raises(StateUnusable, match=f"has format {unknown}"):
            upgraded({"format": unknown}, 3, upgrades)


def test_every_format_there_ever_was_can_be_read() -> None:
    assert sorted(UPGRADES) == list(range(1, FORMAT))
    # As the first one was written, before files were sealed.
    assert decode_state(b'{"format":1,"application":"shop"}\n') == {"format": 1, "application": "shop"}


def test_at_whatever_step_of_writing_it_ends_the_old_or_the_new_is_there_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "state.json")
    for number in range(2):
        write_state(path, encode_state({"number": number}))
    steps: list[tuple[str, object]] = []
    stop_at = 0

    class Killed(BaseException):
        """Not an OSError: nothing may tidy up behind it, as after kill -9."""

    def stepping(name: str) -> None:
        original = getattr(os, name)

        def step(*arguments: Any, **options: Any) -> Any:
            if len(steps) == stop_at:
                raise Killed
            steps.append((name, arguments[0]))
            return original(*arguments, **options)

        monkeypatch.setattr(os, name, step)

    for name in ("open", "write", "fsync", "link", "rename", "unlink"):
        stepping(name)
    numbers = []
    while True:
        steps.clear()
        try:
            write_state(path, encode_state({"number": 2 + stop_at}))
        except Killed:
            steps.append(("read", ""))
            stop_at, saved = 999, stop_at
            numbers.append(decode_state(Path(path).read_bytes())["number"])
            before = decode_state(Path(previous_path(path)).read_bytes())["number"]
            assert isinstance(before, int) and before <= saved + 1
            stop_at = saved + 1
            continue
        break
    # Some steps with the one before, then the rest with the one it was: never anything else.
    assert set(numbers) <= set(range(1, stop_at + 2))
    names = [name for name, _ in steps]
    # What is renamed into place is on the disk before, and the renaming itself after.
    assert names.index("fsync") < names.index("link") < names.index("rename")
    assert names[-1] == "fsync" and names.count("fsync") == 2
    synced = [subject for name, subject in steps if name == "open"]
    assert synced == [f"{path}.new", tmp_path]


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    write_state(str(path), b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_state(str(path), b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("state.json", b"old")]


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'{"a": 1}', b'{"format": "1"}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_state_is_unusable_never_an_accident(data: bytes) -> None:
    with pytest.raises(StateUnusable):
        decode_state(data)


def test_a_state_truncated_anywhere_is_unusable_or_whole() -> None:
    data = encode_state({"application": "shop", "releases": [{"key": "r1"}]})
    for length in range(len(data)):
        with pytest.raises(StateUnusable):
            decode_state(data[:length])


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
    assert state == {**OURS, "application": "shop", "events": [{"message": "one"}, {"message": "two"}]}
