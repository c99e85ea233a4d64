"""A listening socket that systemd hands over."""

from __future__ import annotations

import json
import sys

from tests.support.application import Application
from tests.support.load import Load
from tests.support.ports import listening_stranger

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
