"""The fuzzer, for a short while: ten seconds for each target, and its start."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import mutation
from tests.fuzz.run import TARGET_NAMES, seeds_of
from tests.fuzz.targets import TARGETS

CHECKOUT = Path(__file__).parent.parent.parent
SECONDS = 10


@pytest.mark.parametrize("target", TARGET_NAMES)
def test_no_input_breaks_the_readers(target: str, tmp_path: Path) -> None:
    """With atheris where it is installed, else with the plain driver: ``tests/fuzz/run.py`` says which."""
    options = ["--executions=1000000", f"--seconds={SECONDS}", f"--artifacts={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", target, *options],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS * 10,
    )
    output = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, output[-5000:]
    executions = re.search(r"number_of_executed_units: ([0-9]+)|([0-9]+) executions", output)
    assert executions is not None, output[-5000:]
    assert int(executions[1] or executions[2]) > 500


@pytest.mark.parametrize("target", TARGET_NAMES)
def test_plain_driver_reaches_what_is_taken_and_what_is_refused(target: str) -> None:
    count, outcomes = mutation.run(TARGETS[target], seeds_of(target), 1500, 30, seed=5)
    assert count == 1500
    assert {
        "request_heads": {"head", "incomplete", "400", "417", "501", "505"},
        "chunked_bodies": {"body", "incomplete", "bad"},
        "request_streams": {"1 ", "2 ", "1 incomplete", "0 400", "1 400"},
        "response_heads": {"head", "incomplete", "bad"},
    }[target] <= outcomes


def test_plain_driver_names_the_input_that_fails() -> None:
    def target(data: bytes) -> None:
        assert b"\xff" not in data

    with pytest.raises(AssertionError, match=r"target\(b'.*\\xff"):
        mutation.run(target, [b"GET / HTTP/1.1\r\n\r\n"], 100_000, 30, seed=1)


def test_targets_and_their_seeds_are_those_that_are_named() -> None:
    assert tuple(TARGETS) == TARGET_NAMES
    for name in TARGET_NAMES:
        assert seeds_of(name)
