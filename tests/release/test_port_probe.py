from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from rollbridge.release.port_probe import (
    Listener,
    decode_address,
    describe_holder,
    is_reached_at,
    listeners_on,
    probe_port,
    strangers_on,
)
from rollbridge.release.ports import PortFact


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_a_port_that_somebody_listens_on_is_in_use() -> None:
    with listening() as server:
        assert probe_port("127.0.0.1", server.getsockname()[1]) is PortFact.IN_USE


def test_a_wildcard_listener_occupies_the_loopback_address_too() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert probe_port("127.0.0.1", server.getsockname()[1]) is PortFact.IN_USE


def test_a_port_with_connections_in_time_wait_is_free() -> None:
    with listening() as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # the side that closes first is the one that waits
        client.recv(1)
        client.close()
    assert probe_port("127.0.0.1", port) is PortFact.FREE


def test_an_address_that_is_not_ours_is_not_bindable() -> None:
    assert probe_port("192.0.2.1", 40000) is PortFact.NOT_BINDABLE


def test_our_own_listener_is_no_stranger_to_us_and_one_to_others() -> None:
    with listening() as server:
        port = server.getsockname()[1]
        assert len(listeners_on(port)) == 1
        assert strangers_on("127.0.0.1", port, [os.getpid()]) == ()
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            assert len(strangers_on("127.0.0.1", port, [other.pid])) == 1
        finally:
            other.communicate(b"\n")


def test_a_listener_on_another_address_is_no_stranger_and_one_on_every_address_is() -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        assert strangers_on("127.0.0.1", server.getsockname()[1], []) == ()
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert len(strangers_on("127.0.0.1", server.getsockname()[1], [])) == 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000", "0.0.0.0"),
        ("00000000000000000000000001000000", "::1"),
        ("0000000000000000FFFF00000100007F", "::ffff:127.0.0.1"),
    ],
)
@pytest.mark.skipif(sys.byteorder != "little", reason="the texts are of a little-endian machine")
def test_addresses_of_the_kernel_are_read(text: str, address: str) -> None:
    assert decode_address(text) == address


@pytest.mark.parametrize(
    ("bound", "host", "reached"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.2", "127.0.0.1", False),
        ("::", "127.0.0.1", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("::1", "127.0.0.1", False),
        ("127.0.0.2", "localhost", True),
    ],
)
def test_a_listener_answers_where_it_is_bound(bound: str, host: str, reached: bool) -> None:
    assert is_reached_at(Listener(1, 0, bound), host) is reached


def test_a_port_nobody_listens_on_has_no_strangers() -> None:
    with listening() as server:
        port = server.getsockname()[1]
    assert strangers_on("127.0.0.1", port, []) == ()


def test_the_holder_is_named_by_its_pid() -> None:
    with listening() as server:
        port = server.getsockname()[1]
        assert describe_holder("127.0.0.1", port).startswith(f"127.0.0.1:{port} is in use by pid {os.getpid()} (")
