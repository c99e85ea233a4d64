from __future__ import annotations

import dataclasses
import json

import pytest

from rollbridge.demo.jobs import JobCounts
from rollbridge.demo.ledger import KindSummary, WebSocketSummary
from rollbridge.demo.report import MAX_FAILURES_SHOWN, Report, show_seconds, to_json, to_text

WIDE = KindSummary("GET, new connection", 123456, 12345, 1234, 59.99, 9.994, 100.0)
REPORT = Report(
    kinds=(WIDE, dataclasses.replace(WIDE, label="total", p50_seconds=None, p99_seconds=None)),
    websockets=WebSocketSummary(1234, 1234, 0, 100),
    jobs=JobCounts(12345, 12345, 0, 0),
    recovery_seconds=0.412,
    seconds=12.34,
    problems=(),
)


def test_table_fits_80_columns() -> None:
    failed = dataclasses.replace(REPORT, problems=("a long story " * 20,))
    for report in (REPORT, failed):
        assert max(len(line) for line in to_text(report).splitlines()) <= 80


def test_table_is_ascii() -> None:
    assert to_text(REPORT).isascii()


def test_passed_demo_says_so_and_a_failed_one_names_what_failed() -> None:
    assert "Nothing failed" in to_text(REPORT)
    failed = to_text(dataclasses.replace(REPORT, problems=("the sky fell",)))
    assert "FAILED: the sky fell" in failed
    assert "Nothing failed" not in failed


def test_demo_without_traffic_has_no_table() -> None:
    nothing = dataclasses.replace(WIDE, requests=0)
    assert to_text(dataclasses.replace(REPORT, kinds=(nothing,), problems=("x",))) == "FAILED: x"


def test_a_thousand_problems_are_not_all_printed_but_counted() -> None:
    text = to_text(dataclasses.replace(REPORT, problems=("x",) * 1000))
    assert text.count("FAILED") == MAX_FAILURES_SHOWN + 1
    assert f"and {1000 - MAX_FAILURES_SHOWN} more" in text


def test_json_has_everything_and_the_status() -> None:
    value = json.loads(json.dumps(to_json(REPORT)))
    assert value["status"] == "success"
    assert value["traffic"][0]["requests"] == 123456
    assert value["jobs"] == {"queued": 12345, "done": 12345, "duplicated": 0, "lost": 0}
    assert to_json(dataclasses.replace(REPORT, problems=("x",)))["status"] == "error"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.0004, "0.4 ms"),
        (0.00999, "10 ms"),
        (0.0099, "9.9 ms"),
        (0.125, "125 ms"),
        (0.9996, "1.00 s"),
        (1.25, "1.25 s"),
    ],
)
def test_seconds_are_shown_as_short_as_they_are_exact(seconds: float | None, text: str) -> None:
    assert show_seconds(seconds) == text
