"""Records in the state file."""

from __future__ import annotations

import json

import pytest

from rollbridge.process.identity import ProcessIdentity
from rollbridge.process.records import ProcessRecord, decode_record, encode_record

RECORD = ProcessRecord(
    instance_id="r1.web.0",
    release_id="r1",
    state="running",
    identity=ProcessIdentity(100, 5000, "boot"),
    token="token",
    last_start_reason="crash",
    started_at="2026-11-21T01:02:03.456Z",
    started_monotonic=12.5,
    boot_id="boot",
    exit_code=1,
    exit_signal=None,
    has_exited=True,
    restarts=2,
    restart_times=(1.0, 2.0),
    memory_restarts=1,
    last_memory_restart_at=None,
    is_memory_warned=True,
    is_probation=False,
    output={"stdout": {"inode": 1, "offset": 2, "punched": 0}},
)


def test_record_survives_the_state_file() -> None:
    assert decode_record(json.loads(json.dumps(encode_record(RECORD)))) == RECORD


@pytest.mark.parametrize("missing", ["pid", "start_ticks", "boot_id"])
def test_identity_that_lacks_a_part_is_none(missing: str) -> None:
    data = encode_record(RECORD)
    del data[missing]
    assert decode_record(data).identity is None


@pytest.mark.parametrize("pid", [0, 1, -1])
def test_no_record_makes_us_look_at_init_or_at_groups(pid: int) -> None:
    assert decode_record({**encode_record(RECORD), "pid": pid}).identity is None


@pytest.mark.parametrize("key", sorted(encode_record(RECORD)))
def test_value_of_a_wrong_kind_is_refused_by_name(key: str) -> None:
    with pytest.raises(ValueError, match=key):
        decode_record({**encode_record(RECORD), key: object()})


def test_empty_record_is_a_process_of_which_nothing_is_known() -> None:
    assert decode_record({}).identity is None
