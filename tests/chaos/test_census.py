"""Who is who in the process table, and a kill that knows what it cuts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.census import Seen, client_ports, is_listening, kill, role_of, who
from tests.support.ports import free_block, listening_stranger
from tests.support.processes import ProcessLine


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("python -S -E /x/tests/chaos/app.py web 8000 127.0.0.1", "web"),
        ("python -S -E /x/tests/chaos/app.py jobs", "jobs"),
        ("python /x/rollbridge.pyz _proxy-worker --link-fd=3 --index=0", "proxy worker"),
        ("python -I /x/rollbridge.pyz daemon --config /x/rollbridge.toml", "daemon"),
        ("python -I /x/rollbridge.pyz ensure-daemon --config /x/rollbridge.toml", "other"),
        ("sleep 10", "other"),
    ],
)
def test_a_command_line_tells_the_role(command: str, role: str) -> None:
    assert role_of(ProcessLine(1, 0, "S", command)) == role


def test_the_connections_that_a_process_holds_are_known_by_their_clients_ports() -> None:
    port = free_block(1)
    with listening_stranger(port) as listener, socket.create_connection(("127.0.0.1", port)) as client:
        mine: int = client.getsockname()[1]
        # Not accepted yet: the kernel holds it, for whoever accepts next.
        assert client_ports(os.getpid(), port) == frozenset()
        connection, _ = listener.accept()
        with connection:
            assert client_ports(os.getpid(), port) == frozenset({mine})
            assert is_listening(os.getpid(), port)
            listener.close()
            assert not is_listening(os.getpid(), port)
            assert client_ports(os.getpid(), port) == frozenset({mine})


def test_a_kill_is_over_when_the_process_is() -> None:
    victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        seen = Seen(victim.pid, os.getpid(), who(victim.pid), "proxy worker", "", "")
        killed = kill(seen, 1)
        assert killed is not None
        assert victim.wait() == -signal.SIGKILL
        assert killed.at <= killed.gone_at
        assert kill(seen, 1) is None
    finally:
        victim.kill()
        victim.wait()


def test_a_stranger_that_has_the_pid_now_is_not_killed() -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert kill(Seen(stranger.pid, 0, f"{stranger.pid}-1", "web", "", ""), 1) is None
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_process_is_named_by_its_pid_and_its_start() -> None:
    assert who(os.getpid()).startswith(f"{os.getpid()}-")
    assert Path("/proc/self/stat").read_text().split()[21] == who(os.getpid()).partition("-")[2]
