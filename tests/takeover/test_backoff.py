"""How healing holds back after failures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from rollbridge.takeover.backoff import (
    HealRecord,
    clear_record,
    decode,
    delay_after,
    failed,
    read_record,
    wait_seconds,
    write_record,
)


def test_delays_double_from_just_below_a_minute_to_half_an_hour() -> None:
    assert [delay_after(count) for count in (0, 1, 2, 3, 6, 7, 10**6)] == [50, 50, 100, 200, 1600, 1800, 1800]


def test_after_the_first_failure_the_next_run_of_cron_tries_again() -> None:
    record = failed(HealRecord("boot"), "port taken", "c", now=1000.0)
    assert wait_seconds(record, "c", now=1001.0) == 49.0
    assert wait_seconds(record, "c", now=1060.0) == 0.0


def test_changed_circumstances_end_the_waiting_and_begin_the_count_again() -> None:
    record = failed(failed(HealRecord("boot"), "broken", "c", 0.0), "broken", "c", 60.0)
    assert record.failures == 2
    assert wait_seconds(record, "mended", now=61.0) == 0.0
    assert failed(record, "broken", "mended", 61.0).failures == 1


def test_without_a_failure_nothing_holds_back() -> None:
    assert wait_seconds(HealRecord("boot"), "", now=0.0) == 0.0


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    record = failed(HealRecord("boot"), "why", "c", 5.0)
    write_record(str(tmp_path), record)
    assert read_record(str(tmp_path), "boot") == record
    clear_record(str(tmp_path))
    assert read_record(str(tmp_path), "boot") == HealRecord("boot")
    clear_record(str(tmp_path))


def test_a_record_of_another_boot_is_void() -> None:
    data = json.dumps(asdict(failed(HealRecord("earlier"), "why", "c", 5.0))).encode()
    assert decode(data, "boot") == HealRecord("boot")


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"\xff", b"1", b"[" * 100_000, b'{"boot_id":"boot","failures":"x","retry_at":-1,"reason":1}'],
)
def test_a_record_that_makes_no_sense_is_none(data: bytes) -> None:
    assert decode(data, "boot") == HealRecord("boot")


def test_a_time_that_no_run_wrote_does_not_hold_back_for_ever() -> None:
    record = HealRecord("boot", failures=1, retry_at=1e11, circumstances="c")
    assert wait_seconds(record, "c", now=0.0) == 1800.0


def test_a_record_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    write_record(str(tmp_path / "missing"), HealRecord("boot"))
