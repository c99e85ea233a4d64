from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rollbridge.daemon.lock import DaemonLock, LockHeld


def test_the_second_daemon_learns_who_holds_the_lock(tmp_path: Path) -> None:
    first = DaemonLock(str(tmp_path))
    with pytest.raises(LockHeld, match=f"pid {os.getpid()}"):
        DaemonLock(str(tmp_path))
    first.release()
    DaemonLock(str(tmp_path)).release()


def test_the_lock_dies_with_its_holder_however_it_ends(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from rollbridge.daemon.lock import DaemonLock\n"
        f"lock = DaemonLock({str(tmp_path)!r})\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(LockHeld):
        DaemonLock(str(tmp_path))
    holder.kill()
    holder.communicate()
    DaemonLock(str(tmp_path)).release()


def test_a_symlink_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "daemon.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        DaemonLock(str(tmp_path))
