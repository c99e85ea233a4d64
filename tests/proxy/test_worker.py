"""The worker as a process: the link, its replacement, limits, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rollbridge.proxy.acceptor import client_limit
from rollbridge.proxy.messages import PROTOCOL, Ack, Counts, Hello, Report, Route, Settings, Welcome, decode, encode
from tests.proxy.rig import Peer, Rig, free_port, target
from tests.proxy.test_dispatcher import down
from tests.proxy.test_tunnel import SWITCH, UPGRADE


def attach(rig: Rig, *, want_listener: bool = False) -> tuple[socket.socket, Welcome, list[int]]:
    """Take the worker over as a new supervisor does."""
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(10)
    link.connect(rig.socket_path)
    link.sendall(encode(Hello(want_listener=want_listener)))
    data, descriptors, _, _ = socket.recv_fds(link, 65536, 4)
    while b"\n" not in data:
        data += link.recv(65536)
    welcome = decode(data.partition(b"\n")[0])
    assert isinstance(welcome, Welcome)
    return link, welcome, list(descriptors)


def test_it_introduces_itself(rig: Rig) -> None:
    assert (rig.welcome.protocol, rig.welcome.pid, rig.welcome.index) == (PROTOCOL, rig.process.pid, 0)
    assert rig.welcome.generation == 0


def test_nobody_is_accepted_before_the_first_route(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        client = rig.client()
        client.get()
        rig.configure()
        rig.send(Hello())
        rig.wait_message(Welcome)
        assert client.is_quiet()
        app = rig.app()
        rig.serve(app)
        app.accept().read_head()


def test_counts_follow_what_is_in_flight(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    before = rig.counts.requests_total
    client, other = rig.client(), rig.client(UPGRADE)
    upstream = app.accept()
    upstream.read_head()
    client.get()
    app.accept().read_head()
    rig.wait_counts("r1", 2, 0)
    upstream.send(SWITCH)
    rig.wait_counts("r1", 1, 1)
    rig.wait(lambda: rig.counts.clients == 2 and rig.counts.requests_total == before + 2)
    other.close()
    rig.wait_counts("r1", 1, 0)


def test_an_idle_worker_says_nothing_and_costs_nothing(rig: Rig) -> None:
    rig.serve(rig.app())
    client = rig.client()
    rig.wait(lambda: rig.counts.clients == 1)
    before = rig.cpu_seconds()
    rig.link.settimeout(0.5)
    with pytest.raises(TimeoutError):
        rig.link.recv(1)
    rig.link.settimeout(None)
    assert rig.cpu_seconds() - before <= 0.02
    client.close()


def test_busy_worker_reports_counts_at_a_bounded_rate(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    client = rig.client()
    upstream: Peer | None = None
    start = len(rig.messages)
    began = time.monotonic()
    for _ in range(500):
        client.get()
        upstream = upstream or app.accept()
        upstream.read_head()
        upstream.respond()
        client.read_response()
    seconds = time.monotonic() - began
    rig.wait_counts("r1", 0)
    assert sum(isinstance(one, Counts) for one in rig.messages[start:]) <= seconds / 0.05 + 3


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b"{}\n", b'{"type":"route"}\n', b"\xff\n", b'{"type":"ack","generation":1}\n']
)
def test_a_malformed_order_is_reported_and_ignored(rig: Rig, line: bytes) -> None:
    app = rig.app()
    rig.serve(app)
    rig.link.sendall(line)
    rig.wait_message(Report, lambda report: report.message == "message refused")
    client = rig.client()
    client.get()
    app.accept().read_head()


def test_orders_in_any_packets(rig: Rig) -> None:
    app = rig.app()
    rig.generation += 1
    line = encode(Settings()) + encode(Route(rig.generation, "r1", "", (target("r1", app),)))
    for byte in line:
        rig.link.sendall(bytes([byte]))
    rig.wait_message(Ack, lambda ack: ack.generation == rig.generation)


def test_it_serves_without_a_supervisor_and_follows_the_next_one(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        app = rig.app()
        rig.serve(app)
        tunneled = rig.client(UPGRADE)
        upstream = app.accept()
        upstream.read_head()
        upstream.send(SWITCH)
        tunneled.read_head()
        rig.link.close()
        client = rig.client()
        client.get()
        upstream = app.accept()
        upstream.read_head()
        upstream.respond(b"alone")
        assert client.read_response()[2] == b"alone"
        link, welcome, descriptors = attach(rig, want_listener=True)
        assert welcome.generation == rig.generation
        assert welcome.counts.releases["r1"].websocket == 1
        assert len(descriptors) == 1
        with socket.socket(fileno=descriptors[0]) as listener:
            assert listener.getsockname() == rig.listener.getsockname()
        rig.use_link(link)
        new = rig.app()
        rig.route("r2", target("r1", app), target("r2", new))
        client.get()
        upstream = new.accept()
        upstream.read_head()
        upstream.respond(b"led")
        assert client.read_response()[2] == b"led"
        rig.wait_counts("r1", 0, 1)
        rig.check_clean()


def test_the_newest_supervisor_wins(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.serve(rig.app())
        link, _, descriptors = attach(rig)
        assert descriptors == []
        with pytest.raises(EOFError):
            rig.wait(lambda: False)
        rig.use_link(link)
        rig.serve(rig.app())


def test_strangers_at_the_private_socket_change_nothing(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    assert Path(rig.socket_path).stat().st_mode & 0o777 == 0o600
    silent = []
    for _ in range(20):
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(10)
        one.connect(rig.socket_path)
        silent.append(one)
    with socket.socket(socket.AF_UNIX) as rude:
        rude.settimeout(10)
        for one in silent:
            one.close()
        rude.connect(rig.socket_path)
        rude.sendall(encode(Route(99, None)))
        assert rude.recv(1) == b""
    client = rig.client()
    client.get()
    app.accept().read_head()


def test_an_orphan_behind_which_nobody_listens_ends(tmp_path: Path) -> None:
    before = "from rollbridge.proxy import worker; worker.ORPHAN_CHECK_SECONDS = 0.05; worker.ORPHAN_SECONDS = 0.4"
    with Rig(tmp_path, before=before) as rig:
        app = rig.app()
        rig.serve(app)
        rig.link.close()
        for _ in range(12):  # looked at every 50 ms: it has outlived the time by far when these are done
            app.accept()
        assert rig.process.poll() is None
        app.close()
        assert rig.process.wait(10) == 0
        assert not Path(rig.socket_path).exists()


def test_an_orphan_without_a_release_ends(tmp_path: Path) -> None:
    before = "from rollbridge.proxy import worker; worker.ORPHAN_CHECK_SECONDS = 0.05; worker.ORPHAN_SECONDS = 0.2"
    with Rig(tmp_path, before=before) as rig:
        rig.route(None)
        rig.link.close()
        assert rig.process.wait(10) == 0


def test_an_orphan_with_a_tunnel_to_a_release_that_drains_stays_until_it_ends(tmp_path: Path) -> None:
    before = "from rollbridge.proxy import worker; worker.ORPHAN_CHECK_SECONDS = 0.05; worker.ORPHAN_SECONDS = 0.2"
    with Rig(tmp_path, before=before) as rig:
        app = rig.app()
        rig.serve(app)
        tunneled = rig.client(UPGRADE)
        upstream = app.accept()
        upstream.read_head()
        upstream.send(SWITCH)
        tunneled.read_head()
        rig.route(None, target("r1", app))  # `stop`: it drains
        rig.link.close()
        with pytest.raises(subprocess.TimeoutExpired):
            rig.process.wait(0.6)  # three times as long as it has patience for
        tunneled.close()
        upstream.close()
        assert rig.process.wait(10) == 0


KNOCK_AS_ANOTHER = """
import os, socket, sys
directory, name, uid = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.chdir(directory)
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
link = socket.socket(socket.AF_UNIX)
link.settimeout(10)
try:
    link.connect(name)
    link.sendall(sys.stdin.buffer.readline())
    print("answered" if link.recv(100) else "closed")
except PermissionError:
    print("refused by mode")
except (ConnectionResetError, BrokenPipeError):
    print("closed")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_supervisor_of_another_user_is_not_let_in(tmp_path: Path) -> None:
    def knock(rig: Rig) -> str:
        path = Path(rig.socket_path)
        path.parent.chmod(0o755)
        command = [sys.executable, "-I", "-c", KNOCK_AS_ANOTHER, str(path.parent), path.name, "65534"]
        return subprocess.run(
            command, input=encode(Hello(want_listener=True)), capture_output=True, check=True
        ).stdout.decode()

    with Rig(tmp_path) as rig:
        app = rig.app()
        rig.serve(app)
        assert knock(rig) == "refused by mode\n"
        Path(rig.socket_path).chmod(0o777)  # somebody was too generous: the kernel still tells who it is
        assert knock(rig) == "closed\n"
        client = rig.client()
        client.get()
        app.accept().read_head()  # it follows the supervisor it has
        rig.send(Hello())
        rig.wait_message(Welcome)


def test_shutdown_finishes_what_is_in_flight(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        app = rig.app()
        rig.serve(app)
        idle, busy = rig.client(), rig.client()
        busy.get()
        upstream = app.accept()
        upstream.read_head()
        rig.wait(lambda: rig.counts.clients == 2)
        rig.shutdown(10)
        assert idle.is_closed()
        assert rig.process.poll() is None
        waiting = rig.client()  # left in the queue for whoever else holds the listener
        upstream.respond(b"done")
        status, head, body = busy.read_response()
        assert (status, body) == (200, b"done")
        assert b"Connection: close" in head
        busy.close()
        assert rig.process.wait(10) == 0
        assert waiting.is_quiet()
        assert not Path(rig.socket_path).exists()


def test_shutdown_has_a_deadline(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        app = rig.app()
        rig.serve(app)
        tunneled, busy = rig.client(UPGRADE), rig.client()
        busy.get()
        app.accept().send(SWITCH)
        tunneled.more()
        rig.shutdown(30)
        rig.shutdown(0.1)
        assert rig.process.wait(10) == 0
        assert busy.is_closed()


def test_signals_for_the_supervisor_do_not_end_it(rig: Rig) -> None:
    app = rig.app()
    rig.serve(app)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        os.kill(rig.process.pid, signum)
    client = rig.client()
    client.get()
    app.accept().read_head()


def test_clients_beyond_the_limit_wait_in_the_queue(rig: Rig) -> None:
    rig.configure(max_connections=2)
    app = rig.app()
    rig.serve(app)
    first, second, third = rig.client(), rig.client(), rig.client()
    for client in (first, second):
        client.get()
        upstream = app.accept()
        upstream.read_head()
        upstream.respond(b"x", b"Connection: close")
        assert client.read_response()[0] == 200
    third.get(b"/third")
    before = rig.cpu_seconds()
    rig.wait(lambda: rig.counts.clients == 2)
    assert third.is_quiet()
    assert rig.cpu_seconds() - before < 0.1
    first.close()
    upstream = app.accept()
    upstream.read_head()
    upstream.respond(b"third")
    assert third.read_response()[2] == b"third"


FEW_DESCRIPTORS = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (36, 36))"
RECKLESS = f"{FEW_DESCRIPTORS}; from rollbridge.proxy import acceptor; acceptor.client_limit = lambda *_: 10_000"


def test_whoever_was_accepted_has_a_descriptor_for_the_application(tmp_path: Path) -> None:
    with Rig(tmp_path, before=FEW_DESCRIPTORS) as rig:
        app = rig.app()
        rig.serve(app)
        clients = [rig.client() for _ in range(40)]
        rig.wait(lambda: bool(rig.reports("no more connections")))
        rig.wait(lambda: rig.counts.clients > 0)
        accepted = rig.counts.clients
        assert accepted == client_limit(10_000, 36) == 13
        for client in clients[:accepted]:
            client.get()
        for _ in range(accepted):
            app.accept().read_head()
        for upstream in app.peers:
            upstream.respond(b"x", b"Connection: close")
        assert [client.read_response()[0] for client in clients[:accepted]] == [200] * accepted
        for client in clients[:accepted]:
            client.close()
        clients[-1].get()
        for client in clients[accepted:-1]:
            client.close()
        answer = app.accept()
        answer.read_head()
        answer.respond()
        assert clients[-1].read_response()[0] == 200
        assert not rig.reports("unreachable")
        rig.check_clean()


def test_half_of_the_descriptors_less_a_reserve_are_for_clients() -> None:
    assert client_limit(10_000, 65_536) == 10_000
    assert client_limit(10_000, 20_000) == 9808
    assert client_limit(10_000, 1024) == 384
    assert client_limit(100, 1024) == 100
    assert client_limit(100, 1) == 1
    assert client_limit(100, -1) == 100  # no limit


def test_a_supervisor_is_let_in_though_there_is_no_descriptor_left(tmp_path: Path) -> None:
    with Rig(tmp_path, before=RECKLESS) as rig:
        rig.serve(rig.app())
        for _ in range(40):
            rig.client()
        rig.wait(lambda: bool(rig.reports("no more connections")))
        link, welcome, _ = attach(rig)
        assert welcome.generation == rig.generation
        rig.use_link(link)
        before_cpu = rig.cpu_seconds()
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
            one.connect(rig.socket_path)
            other.connect(rig.socket_path)  # there is room for nobody more, and nothing can be done about it
            began = time.monotonic()
            while time.monotonic() - began < 0.5:
                rig.wait(lambda: True)
                os.sched_yield()
            assert rig.cpu_seconds() - before_cpu < 0.2
        rig.check_clean()


def test_a_listening_socket_that_fails_for_good_is_no_busy_loop(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.serve(rig.app())
        rig.listener.shutdown(socket.SHUT_RDWR)
        rig.wait(lambda: bool(rig.reports("no more connections")))
        before_cpu, began = rig.cpu_seconds(), time.monotonic()
        while time.monotonic() - began < 0.5:
            rig.wait(lambda: True)
            os.sched_yield()
        assert rig.cpu_seconds() - before_cpu < 0.2


def test_out_of_descriptors_it_pauses_and_recovers(tmp_path: Path) -> None:
    with Rig(tmp_path, before=RECKLESS) as rig:
        app = rig.app()
        rig.serve(app)
        clients = [rig.client() for _ in range(40)]
        rig.wait(lambda: bool(rig.reports("no more connections")))
        began, before_cpu = time.monotonic(), rig.cpu_seconds()
        rig.link.settimeout(1)
        while time.monotonic() - began < 0.5:
            rig.wait(lambda: True)
            os.sched_yield()
        assert rig.cpu_seconds() - before_cpu < 0.2
        for client in clients:
            client.close()
        client = rig.client()
        client.get()
        upstream = app.accept()
        upstream.read_head()
        upstream.respond()
        assert client.read_response()[0] == 200
        rig.check_clean()


def test_a_defect_ends_its_own_connection_and_is_reported(tmp_path: Path) -> None:
    before = (
        "from rollbridge.proxy import exchange as e; original = e.response_head_bytes; "
        "e.response_head_bytes = lambda head, *rest: original(head, *rest) if head.status != 299 else 1 / 0"
    )
    with Rig(tmp_path, before=before) as rig:
        app = rig.app()
        rig.serve(app)
        bad, good = rig.client(), rig.client()
        good.get(b"/good")
        fine = app.accept()
        fine.read_head()
        bad.get(b"/bad")
        upstream = app.accept()
        upstream.read_head()
        upstream.respond(status=b"299 Odd")
        assert bad.is_closed()
        report = rig.wait_message(Report)
        assert report.message == "defect in the proxy"
        assert "ZeroDivisionError" in str(report.data["traceback"])
        fine.respond(b"good")
        assert good.read_response()[2] == b"good"
        rig.wait_counts("r1", 0)


def test_a_new_worker_takes_over_the_name_of_a_dead_ones_socket(tmp_path: Path) -> None:
    with Rig(tmp_path) as first:
        first.process.kill()
        first.process.wait()
        with Rig(tmp_path) as second:
            second.link.close()
            _, welcome, _ = attach(second)
            assert welcome.pid == second.process.pid


def test_nothing_leaks_over_many_connections(rig: Rig) -> None:
    app = rig.app(backlog=256)
    rig.serve(app)

    def cycle() -> None:
        client, tunneled, broken = rig.client(), rig.client(UPGRADE), rig.client(b"nonsense\r\n\r\n")
        upstream = app.accept()
        upstream.read_head()
        upstream.send(SWITCH)
        client.get()
        other = app.accept()
        other.read_head()
        other.respond(b"x", b"Connection: close")
        client.read_response()
        broken.read_response()
        for peer in (client, tunneled, broken, upstream, other):
            peer.close()

    asked = rig.counts.requests_total
    for count in (5, 100):
        before = rig.open_descriptors()
        for _ in range(count):
            cycle()
            asked += 2
        rig.wait(lambda total=asked: rig.counts.clients == 0 and rig.counts.requests_total == total)
        rig.wait_counts("r1", 0)
    assert rig.open_descriptors() <= before + 1


def test_unreachable_applications_are_reported_once_in_a_while(rig: Rig) -> None:
    rig.configure(hold_timeout_seconds=0.3)
    port = free_port()
    rig.route("r1", down("r1", port))
    clients = [rig.client() for _ in range(5)]
    for client in clients:
        client.get()
    for client in clients:
        assert client.read_response()[0] == 502
    rig.wait_counts("r1", 0)
    rig.wait(lambda: bool(rig.reports("upstream unreachable")))
    assert [report.data["port"] for report in rig.reports("upstream unreachable")] == [port]


def test_heads_that_nobody_sends_any_more_are_forgotten(tmp_path: Path) -> None:
    before = """from rollbridge.proxy import worker
worker.FORGET_SECONDS = 0.05
forget = worker.Worker._forget
def forget_and_tell(self):
    self.report("held", {"before": len(self.known_requests) + len(self.known_responses)})
    forget(self)
    self.report("held", {"after": len(self.known_requests) + len(self.known_responses)})
worker.Worker._forget = forget_and_tell
pass"""
    with Rig(tmp_path, before=before) as rig:
        app = rig.app()
        rig.serve(app)
        client = rig.client()
        client.get()
        upstream = app.accept()
        upstream.read_head()
        upstream.respond()
        client.read_response()
        assert not rig.reports("held")
        for _ in range(2):
            client.get()
            upstream.read_head()
            upstream.respond()
            client.read_response()
        assert rig.wait_message(Report, lambda report: "before" in report.data).data["before"] == 2
        rig.wait_message(Report, lambda report: report.data == {"after": 0})
