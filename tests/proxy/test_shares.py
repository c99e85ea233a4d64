"""How the workers of one port share their clients."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rollbridge.proxy.shares import NAME, SLOTS, Shares
from tests.proxy.rig import Rig


def test_each_worker_sees_what_the_others_have(tmp_path: Path) -> None:
    one, two, three = (Shares(tmp_path, index) for index in range(3))
    assert one.others() == []
    one.publish(7)
    assert (one.others(), two.others()) == ([], [7])
    two.publish(9)
    three.publish(0)
    assert (list(one.others()), list(two.others())) == ([9, 0], [7, 0])
    two.publish(8)
    two.withdraw()
    assert list(one.others()) == [0]
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_a_worker_that_was_killed_counts_no_more(tmp_path: Path) -> None:
    publish = "import sys, pathlib; from rollbridge.proxy.shares import Shares; "
    publish += "Shares(pathlib.Path(sys.argv[1]), 1).publish(0)"
    subprocess.run([sys.executable, "-c", publish, str(tmp_path)], check=True)
    shares = Shares(tmp_path, 0)
    assert shares.others() == []


def test_the_slot_of_a_worker_is_that_of_who_replaced_it(tmp_path: Path) -> None:
    """The one that retires withdraws when the new one has published already."""
    publish = (
        "import sys, pathlib; from rollbridge.proxy.shares import Shares; s = Shares(pathlib.Path(sys.argv[1]), 1); "
    )
    publish += "s.publish(3); input(); s.withdraw()"
    retiring = subprocess.Popen([sys.executable, "-c", publish, str(tmp_path)], stdin=subprocess.PIPE)
    assert retiring.stdin is not None
    Shares(tmp_path, 1).publish(5)
    retiring.communicate(b"\n")
    assert retiring.returncode == 0


def test_without_the_file_a_worker_is_alone(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / NAME).symlink_to(tmp_path / "elsewhere" / NAME)
    for shares in (
        Shares(tmp_path / "missing", 0),
        Shares(tmp_path / "linked", 0),
        Shares(tmp_path, SLOTS),
    ):
        shares.publish(1)
        assert shares.others() == ()
        shares.withdraw()
    assert not (tmp_path / "elsewhere" / NAME).exists()


@contextmanager
def two_workers(directory: Path, before: str = "") -> Iterator[tuple[Rig, Rig]]:
    with Rig(directory, before=before) as one, Rig(directory, before=before, index=1, beside=one) as two:
        app = one.app()
        one.serve(app)
        two.serve(app)
        onlooker = Shares(directory, 2)
        one.wait(lambda: len(onlooker.others()) == 2)  # a worker opens after it has acknowledged the route
        yield one, two


def test_clients_that_come_at_once_are_shared_evenly(tmp_path: Path) -> None:
    """Long steps back: however late a busy machine lets one of the two run, the other has not taken its share."""
    with two_workers(tmp_path, "from rollbridge.proxy import acceptor; acceptor.STEP_BACK_SECONDS = 0.3") as (one, two):
        for rig in (one, two):
            rig.process.send_signal(signal.SIGSTOP)
        for _ in range(40):
            one.client()
        for rig in (one, two):
            rig.process.send_signal(signal.SIGCONT)
        one.wait(lambda: (two.read_now(), one.counts.clients + two.counts.clients == 40)[1])
        assert 15 <= one.counts.clients <= 25


def test_clients_that_come_one_by_one_are_shared_evenly(tmp_path: Path) -> None:
    with two_workers(tmp_path) as (one, two):
        for number in range(20):
            one.client()
            one.wait(lambda count=number + 1: (two.read_now(), one.counts.clients + two.counts.clients == count)[1])
        assert 8 <= one.counts.clients <= 12


def test_clients_are_not_left_to_a_worker_that_is_stuck(tmp_path: Path) -> None:
    with two_workers(tmp_path) as (one, two):
        two.process.send_signal(signal.SIGSTOP)
        for _ in range(30):
            one.client()
        one.wait(lambda: one.counts.clients == 30)
