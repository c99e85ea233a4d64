from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from rollbridge.config.model import HealthConfig
from rollbridge.release.health import (
    ProbeAnswer,
    Unhealthy,
    judge_status_line,
    pauses,
    probe,
    probe_bound,
    wait_until_healthy,
)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.mark.parametrize(
    ("line", "healthy"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.0 204 No Content\r\n", True),
        (b"HTTP/1.1 302 Found\r\n", True),
        (b"HTTP/1.1 200\r\n", True),
        (b"HTTP/1.1 199 Odd\r\n", False),
        (b"HTTP/1.1 400 Bad Request\r\n", False),
        (b"HTTP/1.1 500 Internal Server Error\r\n", False),
        (b"HTTP/1.1 2000 What\r\n", False),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False),
        (b"HTTP/1.1\r\n", False),
        (b"HTTP/1.1 200 OK", False),
        (b"", False),
    ],
)
def test_only_complete_2xx_and_3xx_status_lines_are_healthy(line: bytes, healthy: bool) -> None:
    assert judge_status_line(line, "/ping").is_healthy is healthy


def test_probing_is_fast_at_first_and_then_keeps_to_the_interval() -> None:
    pause = pauses(0.25)
    assert [pause(attempt) for attempt in range(7)] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25]
    assert pause(10_000) == 0.25


def test_one_probe_never_takes_all_of_a_long_timeout_and_never_more_than_what_is_left() -> None:
    assert probe_bound(30.0, 30.0) == 10.0
    assert probe_bound(3.0, 3.0) == 3.0
    assert probe_bound(30.0, 0.5) == 0.5


def run_against(serve: Serve, use: Callable[[int], Awaitable[None]]) -> None:
    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            await use(server.sockets[0].getsockname()[1])

    asyncio.run(main())


def answering(text: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        await writer.drain()
        writer.close()

    return serve


def test_a_probe_reads_past_interim_answers() -> None:
    async def use(port: int) -> None:
        assert await probe("127.0.0.1", port, "/ping", 5.0) == ProbeAnswer(True, "GET /ping answered 200")

    run_against(answering(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), use)


def test_a_server_that_accepts_and_never_answers_is_bounded() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def use(port: int) -> None:
        answer = await probe("127.0.0.1", port, "/ping", 0.05)
        assert not answer.is_healthy
        assert "not answered within" in answer.reason

    run_against(serve, use)


def test_a_closed_connection_is_named() -> None:
    async def use(port: int) -> None:
        assert "closed without an answer" in (await probe("127.0.0.1", port, "/ping", 5.0)).reason

    run_against(answering(b""), use)


def test_an_endless_first_line_is_refused() -> None:
    async def use(port: int) -> None:
        assert not (await probe("127.0.0.1", port, "/ping", 5.0)).is_healthy

    run_against(answering(b"H" * 200_000), use)


def test_waiting_ends_with_the_last_reason_when_time_is_up() -> None:
    async def use(port: int) -> None:
        with pytest.raises(Unhealthy, match="answered 503"):
            await wait_until_healthy(
                "127.0.0.1", port, HealthConfig("/ping", 0.5, 0.01, 0.0), lambda: "", lambda answer: None
            )

    run_against(answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), use)


def test_a_stranger_on_the_port_never_passes() -> None:
    async def use(port: int) -> None:
        with pytest.raises(Unhealthy, match="belongs to pid 7"):
            await wait_until_healthy(
                "127.0.0.1",
                port,
                HealthConfig("/ping", 0.5, 0.01, 0.0),
                lambda: "the port belongs to pid 7",
                lambda answer: None,
            )

    run_against(answering(b"HTTP/1.1 200 OK\r\n\r\n"), use)


def test_the_first_healthy_answer_ends_the_wait() -> None:
    heard: list[ProbeAnswer] = []

    async def use(port: int) -> None:
        await wait_until_healthy("127.0.0.1", port, HealthConfig("/ping", 5.0, 0.25, 0.0), lambda: "", heard.append)

    run_against(answering(b"HTTP/1.1 200 OK\r\n\r\n"), use)
    assert len(heard) == 1
