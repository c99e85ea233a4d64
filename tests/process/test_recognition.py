from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from rollbridge.process.identity import ProcessIdentity, read_identity
from rollbridge.process.recognition import is_living, is_ours, is_recognised, is_stranger
from rollbridge.process.table import scan_processes
from rollbridge.process.tree import INSTANCE_VARIABLE


@pytest.mark.parametrize(
    ("session", "mark", "token", "verdict"),
    [
        (5, "t", "t", True),
        (5, None, "t", True),  # its environment is not to be read, or wiped
        (5, "t", None, True),  # a proxy worker, or an orphan of long ago
        (5, "other", "t", False),
        (4, "t", "t", False),
        (4, None, None, False),
    ],
)
def test_session_and_mark_decide(session: int, mark: str | None, token: str | None, verdict: bool) -> None:
    assert is_ours(5, session, mark, token) is verdict


@pytest.fixture(params=[True, False], ids=["leads a session", "leads none"])
def process(request: pytest.FixtureRequest) -> Iterator[tuple[bool, ProcessIdentity]]:
    child = subprocess.Popen(
        ["sleep", "1000"], start_new_session=request.param, env={**os.environ, INSTANCE_VARIABLE: "mine"}
    )
    found = read_identity(child.pid)
    assert found is not None
    yield request.param, found
    child.kill()
    child.wait()


def test_a_real_process_is_recognised_by_all_of_it(process: tuple[bool, ProcessIdentity]) -> None:
    is_leader, found = process
    assert is_recognised(found, "mine") is is_leader
    assert not is_recognised(found, "another")
    assert not is_recognised(ProcessIdentity(found.pid, found.start_ticks + 1, found.boot_id), "mine")
    assert not is_recognised(ProcessIdentity(found.pid, found.start_ticks, "earlier"), "mine")
    table = scan_processes()
    assert is_stranger(table, found, "mine") is not is_leader
    assert is_stranger(table, found, "another")
    # Nobody is not a stranger: there may be something left of the one who was it.
    assert not is_stranger(table, ProcessIdentity(found.pid, found.start_ticks + 1, found.boot_id), "mine")
    record = {"pid": found.pid, "start_ticks": found.start_ticks, "boot_id": found.boot_id, "instance": "mine"}
    assert is_living(record) is is_leader
    assert not is_living({**record, "start_ticks": None})
    assert not is_living({**record, "restarts": "x"})
    assert not is_living({})
