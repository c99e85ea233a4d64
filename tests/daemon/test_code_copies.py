from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rollbridge.daemon.code_copies import copies_in_use, delete_unused_copies


def test_a_copy_that_a_process_runs_from_is_kept_and_others_go(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir(mode=0o700)
    used, unused = code / "rollbridge-aaaaaaaaaaaaaaaa.pyz", code / "rollbridge-bbbbbbbbbbbbbbbb.pyz"
    used.write_text("print('up', flush=True); input()")
    unused.write_text("")
    process = subprocess.Popen([sys.executable, "-I", str(used)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        assert copies_in_use(str(tmp_path)) == {str(used)}
        assert delete_unused_copies(str(tmp_path)) == [unused.name]
        assert used.exists()
    finally:
        process.communicate(b"\n")


def test_no_copies_nothing_to_delete(tmp_path: Path) -> None:
    assert delete_unused_copies(str(tmp_path)) == []
