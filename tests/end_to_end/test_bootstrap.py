"""A daemon that brings up a release before anybody can ask it for anything."""

from __future__ import annotations

import os
import signal
import socket

from tests.support.application import Application
from tests.support.ports import listening_stranger
from tests.support.processes import send
from tests.support.waiting import wait_until


def test_the_release_serves_before_the_control_socket_appears(application: Application) -> None:
    gate = application.gate("boot")
    path = application.release("v1", boot_gate=gate)
    application.write_config()
    attestation = "sha256:" + "ab" * 32
    application.daemon = application.spawn(
        "daemon",
        *("--release-path", str(path), "--release-id", "v1", "--revision", "abc"),
        *("--boot-attestation", attestation),
    )
    gate.wait_reached()
    assert not application.control_path.exists()
    with socket.create_connection(("127.0.0.1", application.port), timeout=30) as early:
        early.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        gate.open()
        assert early.recv(12) == b"HTTP/1.1 200"  # it waited in the queue, nobody told it 503
    wait_until(application.control_path.exists, "the control socket appears")
    assert application.status()["active_release_id"] == "v1"
    assert application.serving()[0] == "v1"
    bootstrap = application.status()["daemon"]["bootstrap"]
    assert bootstrap["release_id"] == "v1"
    assert bootstrap["revision"] == "abc"
    assert bootstrap["boot_attestation"] == attestation


def test_a_release_that_does_not_come_up_ends_the_daemon_and_leaves_nothing(application: Application) -> None:
    application.processes["broker"] = application.worker("service")
    path = application.release("v1", exit_code=3, lines=["no database"])
    application.write_config()
    result = application.run("daemon", "--release-path", str(path), "--release-id", "v1", expect=1)
    assert "v1" in result.stderr
    assert "Traceback" not in result.stderr
    application.assert_nothing_left()


def test_a_signal_during_the_bootstrap_ends_it_and_leaves_nothing(application: Application) -> None:

    gate = application.gate("boot")
    application.processes["broker"] = application.worker("service")
    path = application.release("v1", boot_gate=gate)
    application.write_config()
    application.daemon = application.spawn("daemon", "--release-path", str(path))
    gate.wait_reached()
    send(application.daemon.pid, signal.SIGTERM)
    result = application.wait_daemon_exit()
    assert "Traceback" not in result.stderr
    application.assert_nothing_left()


def test_resume_brings_back_the_last_active_release(application: Application) -> None:
    application.release("v1")
    application.release("v2")
    application.start("v1")
    application.deploy("v2")
    application.shutdown()
    application.start_daemon("--resume")
    assert application.serving()[0] == "v2"
    assert application.status()["active_release_id"] == "v2"


def test_resume_with_nothing_to_resume_starts_empty_and_says_so(application: Application) -> None:
    application.release("v1")
    application.start_daemon("--resume")
    assert application.status()["active_release_id"] is None
    assert "nothing to resume" in application.run("events").stdout


def test_a_release_path_that_does_not_exist_ends_the_daemon(application: Application) -> None:
    path = application.release("v1")
    result = application.run("daemon", "--release-path", str(path / "missing"), expect=None)
    assert result.code in (1, 2)
    assert "missing" in result.stderr
    application.assert_nothing_left()


def test_a_port_that_is_taken_is_reported_with_its_holder(application: Application) -> None:

    with listening_stranger(application.port):
        result = application.run("daemon", expect=None)
    assert result.code in (1, 4)
    assert str(application.port) in result.stderr
    assert str(os.getpid()) in result.stderr
    application.assert_nothing_left()
