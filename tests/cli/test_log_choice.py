from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from rollbridge.cli.log_choice import Choice, colour_of, is_meant, lines_of_files, seconds_of, tail_lines
from rollbridge.cli.render import render_log
from tests.cli.support import FakeDaemon, Run


def entry(line: str, at: str | None = "2026-11-21T01:02:03.456Z") -> dict[str, object]:
    return {"process": "r1.web.0", "at": at, "stream": "stdout", "line": line}


LINES = [entry("GET /1"), entry("ERROR x"), entry("GET /2", "2026-11-21T01:02:04.000Z"), entry("ERROR y", None)]


def chosen(choice: Choice) -> list[object]:
    return [one["line"] for one in choice.of(LINES)]


def test_lines_are_chosen_first_and_counted_then() -> None:
    error = re.compile("^ERROR")
    assert chosen(Choice(None, None, 100)) == ["GET /1", "ERROR x", "GET /2", "ERROR y"]
    assert chosen(Choice(None, error, 1)) == ["ERROR y"]
    assert chosen(Choice(None, error, 0)) == []
    assert chosen(Choice(seconds_of("2026-11-21T01:02:04Z"), None, 9)) == ["GET /2", "ERROR y"]


def test_a_time_is_utc_unless_it_says_otherwise() -> None:
    assert seconds_of("2026-11-21T01:02") == seconds_of("2026-11-21T02:02+01:00") == seconds_of("2026-11-21T01:02Z")
    assert seconds_of("soon") is None
    assert seconds_of(None) is None


def test_a_process_keeps_its_colour_from_release_to_release() -> None:
    assert colour_of("r1.web.0") == colour_of("r.2.web.0")
    assert len({colour_of(f"r1.{name}.0") for name in ("web", "worker", "cron", "broker", "mail")}) > 1
    assert render_log(entry("x"), "36") == "2026-11-21T01:02:03.456Z \x1b[36mr1.web.0\x1b[0m | x"
    assert render_log(entry("x", None)) == "r1.web.0 | x"


@pytest.mark.parametrize("name", [None, "web", "v1.2.web.0"])
def test_a_file_is_of_its_process(name: str | None) -> None:
    assert is_meant("v1.2.web.0", name)
    assert not is_meant("v1.2.web.0", "worker")
    assert not is_meant("v1.2.web.0", "v1.2.web.1")
    assert is_meant("broker", "broker")
    assert not is_meant("broker", "web")


def test_the_end_of_a_file_is_read_without_holes_and_torn_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.out"
    path.write_bytes(b"one\ntwo\n\nlast")
    assert tail_lines(str(path)) == ["one", "two", "", "last"]
    path.write_bytes(b"\0" * 4096 + b"torn\nwhole\n")
    assert tail_lines(str(path)) == ["whole"]
    path.write_bytes(b"x" * 300_000 + b"\nend\n")
    assert tail_lines(str(path)) == ["end"]
    path.write_bytes(b"\0" * 10)
    assert tail_lines(str(path)) == []
    path.write_bytes(b"\xff\n")
    assert tail_lines(str(path)) == ["\ufffd"]


def test_without_a_daemon_the_files_are_printed_those_written_last_at_the_end(run: Run, tmp_path: Path) -> None:
    assert run("logs").exit_code == 3
    output = tmp_path / "run" / "output"
    output.mkdir(parents=True)
    for number, (name, text) in enumerate({"r1.worker.0.err": "late\n", "r1.web.0.out": "a\nERROR b\n"}.items()):
        (output / name).write_text(text)
        os.utime(output / name, (2_000_000_000 - number, 2_000_000_000 - number))
    (output / "something.else").write_text("x")
    outcome = run("logs")
    assert outcome.exit_code == 0
    assert outcome.stdout == "r1.web.0 | a\nr1.web.0 | ERROR b\nr1.worker.0 ! late\n"
    assert "without times" in outcome.stderr
    assert run("logs", "--grep", "ERR", "--process", "web").stdout == "r1.web.0 | ERROR b\n"
    assert run("logs", "--json", "--lines", "1").json == {
        "logs": [{"process": "r1.worker.0", "at": None, "stream": "stderr", "line": "late"}]
    }
    assert run("logs", "--process", "cron").exit_code == 3
    assert run("logs", "-f").exit_code == 3
    os.utime(output / "r1.web.0.out", (1, 1))
    assert run("logs", "--since", "2026-01-01").stdout == "r1.worker.0 ! late\n"
    assert len(lines_of_files(str(output), None, None)) == 3


def test_a_choice_is_made_from_all_lines_of_the_daemon(run: Run, daemon: FakeDaemon) -> None:
    daemon.answers["logs"] = {"logs": LINES}
    assert run("logs", "--grep", "GET", "--lines", "1").stdout == "2026-11-21T01:02:04.000Z r1.web.0 | GET /2\n"
    assert daemon.requests[-1] == {"command": "logs", "lines": 1_000_000}
    daemon.progress["logs"] = [{"log": line} for line in LINES]
    assert run("logs", "-f", "--grep", "/1").stdout == "2026-11-21T01:02:03.456Z r1.web.0 | GET /1\n"
    assert daemon.requests[-1] == {"command": "logs", "lines": 100, "follow": True}


@pytest.mark.parametrize(
    "options", [("--grep", "("), ("--since", "yesterday"), ("--since", "5"), ("--since", "2026-13-01")]
)
def test_what_cannot_be_chosen_by_is_wrong_usage(run: Run, options: tuple[str, str]) -> None:
    outcome = run("logs", *options)
    assert outcome.exit_code == 2
    assert outcome.stderr.count("\n") == 1
