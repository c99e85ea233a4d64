"""What the file holds after real requests, and what becomes of it when it is moved, deleted or cannot be written."""

from __future__ import annotations

import json
import os
import stat
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rollbridge.proxy import access_log
from rollbridge.proxy.access_line import NO_UPSTREAM
from rollbridge.proxy.access_log import FLUSH_SECONDS, MAX_NOTES, AccessLog
from rollbridge.proxy.loop import Loop
from tests.proxy.rig import App, Peer, Rig, clean

GET = b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def hasty_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    before = "from rollbridge.proxy import access_log; access_log.FLUSH_SECONDS = 0.05"
    with Rig(tmp_path_factory.mktemp("worker"), before=before) as rig:
        yield rig


@pytest.fixture
def hasty(hasty_rig: Rig, tmp_path: Path) -> Iterator[Rig]:
    hasty_rig.configure(access_log=str(tmp_path / "log"))
    with clean(hasty_rig) as rig:
        yield rig


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_lines(rig: Rig, path: Path, count: int = 1) -> list[dict[str, Any]]:
    rig.wait(lambda: len(lines(path)) >= count)
    found = lines(path)
    assert len(found) == count
    return found


def served(rig: Rig) -> tuple[App, Peer]:
    app = rig.app()
    rig.serve(app)
    return app, rig.client()


def answer(app: App, response: bytes) -> Peer:
    upstream = app.accept()
    upstream.read_head()
    upstream.send(response)
    return upstream


def test_a_request_leaves_a_line(hasty: Rig, tmp_path: Path) -> None:
    app, client = served(hasty)
    client.send(b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
    upstream = app.accept()
    upstream.read_head()
    time.sleep(0.1)
    upstream.respond(b"hello")
    client.read_response()
    (line,) = wait_lines(hasty, tmp_path / "log")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(line.pop("at"))).total_seconds()) < 10
    assert 0.1 <= line.pop("first_byte_seconds") <= line.pop("seconds") < 5
    assert line == {
        "client": "127.0.0.1",
        "method": "POST",
        "target": "/up",
        "protocol": "HTTP/1.1",
        "status": 200,
        "request_bytes": 3,
        "response_bytes": 5,
        "release": "r1",
        "upstream": f"127.0.0.1:{app.port}",
        "complete": True,
    }


@pytest.mark.parametrize(
    ("request_bytes", "response", "size", "is_closed"),
    [
        (
            GET,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nT: x\r\n\r\n",
            6,
            False,
        ),
        (GET, b"HTTP/1.0 200 OK\r\n\r\nhello", 5, True),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0, False),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", 0, False),
        (GET, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 2, False),
        (GET.replace(b"GET", b"HEAD"), b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", 0, False),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000), 1_000_000, False),
    ],
    ids=["chunked", "until close", "empty", "304", "interim", "head", "large"],
)
def test_bytes_are_those_of_the_body(
    hasty: Rig, tmp_path: Path, request_bytes: bytes, response: bytes, size: int, is_closed: bool
) -> None:
    app, client = served(hasty)
    client.send(request_bytes)
    upstream = answer(app, response)
    if is_closed:
        upstream.close()
    while not lines(tmp_path / "log"):
        client.buffer = b""
        if not client.is_quiet(0.01):
            client.more()
    (line,) = wait_lines(hasty, tmp_path / "log")
    assert (line["response_bytes"], line["complete"]) == (size, True)


def test_request_bytes_of_a_chunked_and_of_a_large_body(hasty: Rig, tmp_path: Path) -> None:
    app, client = served(hasty)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
    answer(app, b"HTTP/1.1 204 No Content\r\n\r\n")
    client.read_response()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000))
    upstream = app.accept()
    upstream.read_head()
    upstream.read(1_000_000)
    upstream.respond()
    client.read_response()
    assert [line["request_bytes"] for line in wait_lines(hasty, tmp_path / "log", 2)] == [7, 1_000_000]


def test_answers_of_our_own_are_logged(hasty: Rig, tmp_path: Path) -> None:
    hasty.route(None)
    client = hasty.client(GET)
    body = client.read_response()[2]
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    refusal = client.read_response()[2]
    unavailable, refused = wait_lines(hasty, tmp_path / "log", 2)
    assert (unavailable["status"], unavailable["target"]) == (503, "/a?b=c")
    assert (unavailable["response_bytes"], unavailable["release"], unavailable["upstream"]) == (len(body), None, None)
    assert (refused["status"], refused["client"]) == (400, "127.0.0.1")
    assert (refused["method"], refused["target"], refused["response_bytes"]) == (None, None, len(refusal))


def test_what_is_cut_short_is_told_from_what_is_complete(hasty: Rig, tmp_path: Path) -> None:
    app, client = served(hasty)
    client.send(GET)
    answer(app, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345").close()
    client.read_to_end()
    client = hasty.client(GET)
    app.accept().read_head()
    client.reset()
    wait_lines(hasty, tmp_path / "log", 2)
    client = hasty.client(GET)
    upstream = app.accept()
    upstream.read_head()
    upstream.reset()
    assert client.read_response()[0] == 502
    cut, gone, failed = wait_lines(hasty, tmp_path / "log", 3)
    assert (cut["status"], cut["response_bytes"], cut["complete"]) == (200, 5, False)
    assert (gone["status"], gone["first_byte_seconds"], gone["complete"]) == (None, None, False)
    assert (failed["status"], failed["upstream"], failed["complete"]) == (502, f"127.0.0.1:{app.port}", True)


def test_a_repeated_request_is_one_line(hasty: Rig, tmp_path: Path) -> None:
    app, client = served(hasty)
    client.send(GET)
    first = answer(app, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    client.read_response()
    client.send(GET)
    first.read_head()
    first.close()
    answer(app, b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    client.read_response()
    assert [line["status"] for line in wait_lines(hasty, tmp_path / "log", 2)] == [200, 201]


def test_a_tunnel_leaves_its_line_at_its_end(hasty: Rig, tmp_path: Path) -> None:
    app, client = served(hasty)
    client.send(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    upstream = answer(app, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    client.read_head()
    client.send(b"12345")
    upstream.read(5)
    upstream.send(b"123")
    client.read(3)
    time.sleep(0.15)
    assert not lines(tmp_path / "log")
    client.close()
    upstream.close()
    (line,) = wait_lines(hasty, tmp_path / "log")
    assert (line["status"], line["target"], line["release"]) == (101, "/ws", "r1")
    assert (line["request_bytes"], line["response_bytes"]) == (5, 3)
    assert line["first_byte_seconds"] < 0.15 <= line["seconds"]


def test_the_client_is_who_a_trusted_proxy_says(hasty: Rig, tmp_path: Path) -> None:
    app, client = served(hasty)
    for header in (b"192.0.2.1", b"192.0.2.2, 127.0.0.9"):
        client.get(b"/", b"X-Forwarded-For: " + header)
    upstream = app.accept()
    for _ in range(2):
        upstream.read_head()
        upstream.respond()
        client.read_response()
    hasty.configure(access_log=str(tmp_path / "log"), trusted_proxies=("10.0.0.0/8",))
    client = hasty.client()
    client.get(b"/", b"X-Forwarded-For: 192.0.2.3")
    upstream.read_head()
    upstream.respond()
    client.read_response()
    assert [line["client"] for line in wait_lines(hasty, tmp_path / "log", 3)] == [
        "192.0.2.1",
        "192.0.2.2",
        "127.0.0.1",
    ]


def ask(client: Peer, upstream: Peer, target: bytes) -> None:
    client.get(target)
    upstream.read_head()
    upstream.respond()
    client.read_response()


@pytest.mark.parametrize("is_deleted", [False, True])
def test_after_a_rotation_the_new_file_is_written_and_no_line_is_lost(
    hasty: Rig, tmp_path: Path, is_deleted: bool
) -> None:
    log, old = tmp_path / "log", tmp_path / "log.1"
    app, client = served(hasty)
    client.get(b"/0")
    upstream = app.accept()
    upstream.read_head()
    upstream.respond()
    client.read_response()
    wait_lines(hasty, log)
    log.unlink() if is_deleted else log.rename(old)
    for number in range(1, 20):
        ask(client, upstream, b"/%d" % number)
    hasty.wait(lambda: any(line["target"] == "/19" for line in lines(log)))
    targets = [line["target"] for path in (old, log) for line in lines(path)]
    expected = [f"/{number}" for number in range(20)]
    assert targets == expected[-len(targets) :]
    assert is_deleted or len(targets) == 20


def test_a_file_that_cannot_be_written_is_reported_once_and_serving_goes_on(hasty: Rig, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "log"
    hasty.configure(access_log=str(path))
    app, client = served(hasty)
    client.send(GET)
    upstream = answer(app, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    client.read_response()
    for _ in range(10):
        ask(client, upstream, b"/")
        time.sleep(0.02)
    hasty.wait(lambda: bool(hasty.reports("access log cannot be written")))
    assert len(hasty.reports("access log")) == 1
    assert hasty.reports("access log")[0].data == {"path": str(path), "error": "No such file or directory"}
    path.parent.mkdir()
    hasty.wait(lambda: bool(hasty.reports("access log written again")))
    assert len(lines(path)) == 11  # what waited is not lost


def test_it_can_be_switched_on_and_off(hasty: Rig, tmp_path: Path) -> None:
    app, client = served(hasty)
    hasty.configure()
    client.send(GET)
    upstream = answer(app, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    client.read_response()
    hasty.configure(access_log=str(tmp_path / "other"))
    hasty.serve(app)
    ask(client, upstream, b"/logged")
    client.get(b"/began-before")
    upstream.read_head()
    hasty.configure()
    hasty.serve(app)  # acknowledged when the settings before it have been followed
    upstream.respond()
    client.read_response()
    assert [line["target"] for line in lines(tmp_path / "other")] == ["/logged"]
    assert lines(tmp_path / "log") == []


def test_what_waits_is_written_at_the_end(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.configure(access_log=str(tmp_path / "log"))
        app, client = served(rig)
        client.send(GET)
        answer(app, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        client.read_response()
        rig.shutdown(0)
        assert rig.process.wait(10) == 0
        assert len(lines(tmp_path / "log")) == 1


# The file by itself.


class Reports(list[tuple[str, dict[str, object]]]):
    def __call__(self, message: str, data: dict[str, object]) -> None:
        self.append((message, data))


def opened(path: Path) -> tuple[AccessLog, Loop, Reports]:
    loop, reports = Loop(lambda *_: None), Reports()
    return AccessLog(loop, str(path), (), reports), loop, reports


def test_lines_gather_and_a_large_heap_is_written_at_once(tmp_path: Path) -> None:
    log, loop, _ = opened(tmp_path / "log")
    log.add("a\n")
    assert (tmp_path / "log").read_bytes() == b""
    assert log.deadline == pytest.approx(loop.now + access_log.FLUSH_SECONDS)
    log.add("x" * access_log.FLUSH_BYTES)
    assert (tmp_path / "log").read_bytes().startswith(b"a\nx")
    log.close()


def test_it_is_appended_to_and_readable_by_the_group(tmp_path: Path) -> None:
    path = tmp_path / "log"
    former = os.umask(0o022)
    try:
        log, _, _ = opened(path)
    finally:
        os.umask(former)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    other, _, _ = opened(path)
    for one in (log, other, log):
        one.add("line\n")
        one.expired()
    assert path.read_bytes() == b"line\n" * 3
    log.close()
    other.close()


def test_what_waits_for_a_file_is_bounded_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "log"
    log, _, reports = opened(path)
    line = "x" * 1023 + "\n"
    for _ in range(1024 + 5):
        log.add(line)
    path.parent.mkdir()
    log.expired()
    assert path.stat().st_size == 1024 * 1024
    assert [message for message, _ in reports] == ["access log cannot be written", "access log written again"]
    assert reports[1][1]["lost_lines"] == 5
    log.close()


def test_a_pipe_that_nobody_reads_holds_up_nobody(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    log, _, reports = opened(path)
    assert [message for message, _ in reports] == ["access log cannot be written"]
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log.expired()
    for _ in range(100):
        log.add("x" * 4095 + "\n")
    log.expired()
    assert len(os.read(reader, 10_000_000)) == 65536
    log.expired()
    log.close()
    assert len(os.read(reader, 10_000_000)) == 65536
    os.close(reader)


def test_what_is_remembered_of_long_chains_of_proxies_is_bounded(tmp_path: Path) -> None:
    log, _, _ = opened(tmp_path / "log")
    tracemalloc.start()
    try:
        for number in range(2000):
            chain = b"%d.1.1.1, " % (number % 200) + b"9" * 8000 + b"%d, 203.0.113.9" % number
            assert log.client(b"127.0.0.1", [(b"x-forwarded-for", chain)]) == "203.0.113.9"
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000
    log.close()


def noted(log: AccessLog, target: bytes) -> None:
    log.note((0.0, "192.0.2.7", (b"GET", target, True), 200, 0, 5, NO_UPSTREAM, 0.25, 0.25, True))


@pytest.mark.parametrize("count", [0, 1, MAX_NOTES - 1, MAX_NOTES, MAX_NOTES + 1, 3000])
def test_what_was_noted_is_written_in_order_and_within_a_second(tmp_path: Path, count: int) -> None:
    log, loop, _ = opened(tmp_path / "log")
    for number in range(count):
        noted(log, b"/%d" % number)
    assert (log.deadline <= loop.now + FLUSH_SECONDS) is (count > 0)
    if count:
        log.expired()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["target"] for line in lines] == [f"/{number}" for number in range(count)]
    noted(log, b"/last")
    log.close()
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])["target"] == "/last"


def test_long_targets_are_not_kept_in_numbers(tmp_path: Path) -> None:
    log, _, _ = opened(tmp_path / "log")
    long = b"/" + b"x" * 60_000
    noted(log, b"/short")
    noted(log, long)
    noted(log, long)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [len(json.loads(line)["target"]) for line in lines] == [6, len(long), len(long)]
    log.close()


def test_a_rotation_is_noticed_under_any_load(tmp_path: Path) -> None:
    """Lines that fill the buffer within the second do not put off the look at the path."""
    log, loop, _ = opened(tmp_path / "log")
    log.add("first\n")
    due = log.deadline
    for _ in range(5):
        loop.now += 0.1
        log.add("x" * 100_000)
    assert log.deadline == due
    log.close()


def test_the_clock_is_that_of_the_wall(tmp_path: Path) -> None:
    log, loop, _ = opened(tmp_path / "log")
    stamp = log.timestamp(loop.now)
    assert abs(datetime.fromisoformat(stamp).timestamp() - time.time()) < 2
    assert len(stamp) == len("2026-01-31T23:59:59.000Z")
    log.close()
