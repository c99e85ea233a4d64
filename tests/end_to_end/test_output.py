"""What processes print, however they print it: they are never held up, and the disk stays bounded."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path

from tests.support.application import Application
from tests.support.processes import is_running, send, status_number
from tests.support.waiting import wait_until

# Before and after: what a daemon holds of a flood must not grow with the flood.
FLOOD_TOLERANCE_KIB = 40_000
DISK_LIMIT_BYTES = 40_000_000


def printing(application: Application, source: str) -> Path:
    """Make ``jobs`` run ``source``; returns the file that it touches when all is printed."""
    done = application.root / "printed"
    script = application.root / "print.py"
    script.write_text(f"import os, sys, time\n{source}\nopen({str(done)!r}, 'w').close()\ntime.sleep(10000)\n")
    application.processes["jobs"] = {"command": [sys.executable, "-S", str(script)], "restart_delay": "50ms"}
    application.release("v1")
    return done


def disk_bytes(application: Application) -> int:
    """What the output files really occupy."""
    files = (application.runtime_dir / "output").iterdir()
    return sum(file.stat().st_blocks * 512 for file in files)


def test_lines_of_both_streams_are_kept_and_shown(application: Application) -> None:
    printing(application, "print('to stdout', flush=True); print('to stderr', file=sys.stderr, flush=True)")
    application.start("v1")
    wait_until(
        lambda: {"to stdout", "to stderr"} <= set(application.logged("jobs")), lambda: str(application.logged("jobs"))
    )
    entries = application.run("logs", "--process", "jobs", "--json").json
    entries = entries["logs"] if isinstance(entries, dict) else entries
    assert {(entry["stream"], entry["line"]) for entry in entries} >= {
        ("stdout", "to stdout"),
        ("stderr", "to stderr"),
    }
    assert "to stderr" in application.run("logs").stdout
    assert any(line["line"] == "to stdout" for line in application.process("jobs")["logs"])


def test_output_without_a_newline_is_shown_as_it_stands(application: Application) -> None:
    printing(application, "os.write(1, b'password: ')")
    application.start("v1")
    wait_until(
        lambda: any("password:" in line for line in application.logged("jobs")), "the unfinished line is in the logs"
    )


def test_the_last_words_of_a_crash_are_kept_even_without_a_newline(application: Application) -> None:
    application.processes["web"]["command"] = [sys.executable, "-S", "-c", "raise SystemExit('no database')"]
    application.release("v1")
    application.start()
    result = application.deploy("v1", expect=1)
    assert "no database" in result.stderr


def test_broken_utf_8_is_replaced_and_nothing_breaks(application: Application) -> None:
    printing(
        application, r"os.write(1, b'\xff\xfe broken \xc3\n\x00\x1b[31mred\n' + 'gr\u00fc\u00df'.encode() + b'\n')"
    )
    application.start("v1")
    wait_until(lambda: "grüß" in application.logged("jobs"), lambda: str(application.logged("jobs")))
    assert any("\ufffd" in line and "broken" in line for line in application.logged("jobs"))
    text = application.run("logs", "--process", "jobs").stdout
    assert "broken" in text
    assert json.loads(application.run("status", "--json").stdout)["active_release_id"] == "v1"


def test_a_million_lines_are_taken_without_growing_or_holding_up_the_process(application: Application) -> None:
    gate = application.root / "go"
    done = printing(
        application,
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "for n in range(1000): os.write(1, b''.join(b'line %d\\n' % (n * 1000 + i) for i in range(1000)))",
    )
    daemon = application.start("v1")
    before = status_number(daemon, "VmRSS")
    gate.touch()
    wait_until(done.exists, "a million lines are printed")
    wait_until(lambda: application.logged("jobs")[-1] == "line 999999", "the last line arrives")
    assert status_number(daemon, "VmRSS") - before < FLOOD_TOLERANCE_KIB
    wait_until(lambda: disk_bytes(application) < DISK_LIMIT_BYTES, lambda: f"{disk_bytes(application)} bytes on disk")


def test_two_hundred_megabytes_without_a_newline_hold_up_nobody(application: Application) -> None:
    gate = application.root / "go"
    done = printing(
        application,
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "for n in range(200): os.write(2, b'x' * 1_000_000)\n"
        "os.write(2, b'\\nthe end\\n')",
    )
    daemon = application.start("v1")
    before = status_number(daemon, "VmRSS")
    gate.touch()
    wait_until(done.exists, "all is printed")
    wait_until(lambda: "the end" in application.logged("jobs"), "the last line arrives")
    assert all(len(line) < 20_000 for line in application.logged("jobs"))
    assert status_number(daemon, "VmRSS") - before < FLOOD_TOLERANCE_KIB
    wait_until(lambda: disk_bytes(application) < DISK_LIMIT_BYTES, lambda: f"{disk_bytes(application)} bytes on disk")
    assert application.serving()[0] == "v1"


def test_a_daemon_that_stands_still_holds_up_neither_the_output_nor_the_traffic(application: Application) -> None:
    gate = application.root / "go"
    done = printing(
        application,
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "for n in range(100_000): os.write(1, b'line %d of many, long enough to fill every pipe\\n' % n)\n",
    )
    daemon = application.start("v1")
    send(daemon, signal.SIGSTOP)
    try:
        gate.touch()
        wait_until(done.exists, "everything is printed while the daemon stands still")
        assert application.serving()[0] == "v1"
    finally:
        send(daemon, signal.SIGCONT)
    wait_until(
        lambda: application.logged("jobs")[-1].startswith("line 99999 "), "the daemon reads on from where it was"
    )


def test_a_process_that_closes_its_output_goes_on_running(application: Application) -> None:
    done = printing(application, "os.close(1); os.close(2)")
    application.start("v1")
    wait_until(done.exists, "it has closed both")
    assert is_running(application.pid_of("jobs"))
    assert application.status()["active_release_id"] == "v1"


def test_output_files_that_are_truncated_or_deleted_lose_no_later_line(application: Application) -> None:
    gate = application.root / "go"
    printing(
        application,
        "n = 0\nwhile True:\n    n += 1\n"
        f"    os.write(1, b'after\\n' if os.path.exists({str(gate)!r}) else b'before\\n')\n    time.sleep(0.01)",
    )
    application.start("v1")
    wait_until(lambda: "before" in application.logged("jobs"), "it prints")
    files = [file for file in (application.runtime_dir / "output").iterdir() if "jobs" in file.name]
    for file in files:
        file.write_bytes(b"")
    wait_until(lambda: application.logged("jobs"), "it is still read")
    for file in files:
        file.unlink()
    gate.touch()
    wait_until(lambda: "after" in application.logged("jobs"), "lines after the deletion are read")


def test_follow_shows_lines_as_they_are_printed(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    follower = application.spawn("logs", "--process", "web", "--follow")
    wait_until(lambda: "v1 listens" in follower.stdout, "what was there is shown")
    application.get("/say?fresh-news")
    wait_until(lambda: "fresh-news" in follower.stdout, "a new line is shown")
    assert follower.is_running
    send(follower.pid, signal.SIGINT)
    result = follower.finish(10)
    assert "Traceback" not in result.stderr
    application.get("/say?more")
    wait_until(lambda: "more" in application.logged("web"), "the daemon reads on without its follower")


def test_follow_goes_on_with_the_next_release(application: Application) -> None:
    application.release("v1")
    application.release("v2")
    application.start("v1")
    follower = application.spawn("logs", "--process", "web", "--follow", "--json")
    wait_until(lambda: "v1 listens" in follower.stdout, "what was there is shown")
    application.deploy("v2")
    wait_until(lambda: "v2 listens" in follower.stdout, "the new release's output is shown")
    assert all(json.loads(line) for line in follower.stdout.splitlines())
    follower.kill()


def test_a_follower_that_does_not_read_holds_up_nobody(application: Application) -> None:

    done = printing(application, "for n in range(200_000): os.write(1, b'line %d, and more of it\\n' % n)")
    application.start()
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(str(application.control_path))
        deaf.sendall(b'{"command": "logs", "follow": true}\n')
        application.deploy("v1")
        wait_until(done.exists, "everything is printed")
        wait_until(lambda: application.logged("jobs")[-1].startswith("line 199999"), "the last line is read")
        assert application.serving()[0] == "v1"
