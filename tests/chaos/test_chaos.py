"""Two minutes of chaos with a seed that is printed; ``CONTRIBUTING.md`` says how to repeat one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.chaos.run import ChaosRun
from tests.chaos.stage import CHECKOUT
from tests.support.processes import all_processes
from tests.support.waiting import wait_until

SEED = int(os.environ.get("ROLLBRIDGE_CHAOS_SEED", "4"))
SECONDS = float(os.environ.get("ROLLBRIDGE_CHAOS_SECONDS", "120"))
START_SECONDS = 120.0


def test_what_is_promised_holds_in_chaos(pyz: Path, tmp_path: Path) -> None:
    report = ChaosRun(SEED, SECONDS, pyz, None, print).run(tmp_path / "evidence")
    told = "\n".join([*report.lines(), f"again: python -m tests.chaos.run --seed {SEED} --seconds {SECONDS:g}"])
    print(told)
    assert not report.violations, told
    assert report.jobs.finished > 0
    assert report.state_readings > 0
    assert report.censuses > 0


def test_a_run_that_is_killed_leaves_nothing_behind(pyz: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tests.chaos.run", "--seed", "1", "--seconds", "600", "--pyz", str(pyz)]
    with log.open("wb") as output:
        run = subprocess.Popen(command, stdout=output, stderr=output, cwd=CHECKOUT)
    try:
        wait_until(lambda: "is active" in log.read_text(), lambda: f"it runs: {log.read_text()}", START_SECONDS)
        root = log.read_text().partition(": ")[2].partition(",")[0]
        assert Path(root).is_dir()
        assert [line for line in all_processes() if root in line.command]
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    # The guard's own command line names the directory too.
    wait_until(lambda: not [line for line in all_processes() if root in line.command], "all processes are gone", 60)
    assert not Path(root).exists()
