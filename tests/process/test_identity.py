"""Who a pid is, tried on real processes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rollbridge.process.identity import ProcessIdentity, is_alive, read_identity, read_start_ticks, signal_identity


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "1000"])
    yield child
    child.kill()
    child.wait()


def identify(child: subprocess.Popen[bytes]) -> ProcessIdentity:
    identity = read_identity(child.pid)
    assert identity is not None
    return identity


def test_signal_reaches_exactly_this_process(sleeper: subprocess.Popen[bytes]) -> None:
    assert is_alive(identify(sleeper))
    assert signal_identity(identify(sleeper), signal.SIGTERM)
    assert sleeper.wait() == -signal.SIGTERM


def test_stranger_with_the_same_pid_is_never_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identify(sleeper)
    for forged in (replace(identity, start_ticks=identity.start_ticks - 1), replace(identity, boot_id="earlier")):
        assert not is_alive(forged)
        assert not signal_identity(forged, signal.SIGKILL)
    assert sleeper.poll() is None


def test_zombie_is_not_alive_and_a_reaped_pid_is_nobody(sleeper: subprocess.Popen[bytes]) -> None:
    identity = identify(sleeper)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert read_start_ticks(sleeper.pid) == identity.start_ticks
    assert not is_alive(identity)
    sleeper.wait()
    assert not signal_identity(identity, signal.SIGKILL)


def test_init_and_ourselves_are_never_signalled() -> None:
    for pid in (1, os.getpid()):
        identity = read_identity(pid)
        assert identity is not None
        assert not signal_identity(identity, signal.SIGTERM)
