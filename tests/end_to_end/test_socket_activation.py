"""A listening socket that systemd hands over."""

from __future__ import annotations

import json
import sys

from tests.support.application import Application
from tests.support.load import Load
from tests.support.ports import listening_stranger
from tests.support.processes import kill_and_wait

# As systemd does it: descriptor 3, and the pid of the very process that is to take it.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_the_socket_that_was_handed_over_is_served(application: Application) -> None:
    application.release("v1")
    application.release("v2")
    application.write_config()
    plain = application.command
    with listening_stranger(application.port) as listener:
        application.inherited = (listener.fileno(),)
        application.command = (sys.executable, "-c", HAND_OVER, str(listener.fileno()), *application.command)
        application.start_daemon()
        application.command, application.inherited = plain, ()
        application.deploy("v1")
        with Load(application.port) as load:
            load.wait_for_release("v1")
            application.deploy("v2")
            load.wait_for_release("v2")
        load.assert_no_failure()
        # What was meant for the daemon is not handed on.
        environment = json.loads(application.get("/env").body)
        assert "LISTEN_FDS" not in environment
        application.shutdown()
        # It is not ours to close: whoever gave it still has it, and the next daemon can be given it again.
        assert listener.getsockname()[1] == application.port


def test_a_daemon_that_is_started_again_after_a_crash_gets_the_socket_and_takes_over(application: Application) -> None:
    application.release("v1")
    application.write_config()
    plain = application.command
    with listening_stranger(application.port) as listener:

        def start() -> int:
            application.inherited = (listener.fileno(),)
            application.command = (sys.executable, "-c", HAND_OVER, str(listener.fileno()), *plain)
            try:
                return application.start_daemon("--resume")
            finally:
                application.command, application.inherited = plain, ()

        first = start()
        application.deploy("v1")
        workers = {line.pid for line in application.proxy_workers()}
        before = application.serving()
        with Load(application.port) as load:
            load.wait_for_more()
            kill_and_wait(first)
            load.wait_for_more()
            assert start() != first
            load.wait_for_more()
        load.assert_no_failure()
        assert application.serving() == before
        assert {line.pid for line in application.proxy_workers()} == workers
        application.shutdown()
