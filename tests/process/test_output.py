"""Output through files: followed, bounded, complete at the end."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from pathlib import Path

import pytest

from rollbridge.process import stream_file
from rollbridge.process.output import IDLE_SECONDS, LogLine, ProcessOutput
from tests.process.support import Bench, bench, python, run_async, until


async def write(made: Bench, output: ProcessOutput, *argv: str) -> None:
    """Run ``argv`` with its streams in the files of ``output``, and read them to the end."""
    stdout, stderr = output.open_for_child()
    child = made.reaper.spawn(argv, cwd="/", env=None, stdout=stdout, stderr=stderr)
    os.close(stdout)
    os.close(stderr)
    await child.exit
    await output.drain()


def texts(lines: list[LogLine]) -> list[str]:
    return [line.line for line in lines]


def disk_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_lines_of_both_streams_are_kept_with_time_and_stream() -> None:
    async def work() -> None:
        async with bench() as made:
            output = made.outputs.open("a.0", 50)
            await write(made, output, "sh", "-c", "echo out; echo err >&2; printf 'no newline'")
            assert [(line.stream, line.line) for line in output.last(9)] == [
                ("stdout", "out"),
                ("stdout", "no newline"),
                ("stderr", "err"),
            ] or sorted(texts(output.last(9))) == ["err", "no newline", "out"]
            at = output.last(1)[0].at
            assert len(at) == len("2026-11-21T01:02:03.456Z")
            assert at.endswith("Z")

    run_async(work())


def test_files_are_private() -> None:
    async def work() -> None:
        async with bench() as made:
            os.close((fds := made.outputs.open("a.0", 5).open_for_child())[0])
            os.close(fds[1])
            assert stat.S_IMODE(made.path("output/a.0.out").stat().st_mode) == 0o600
            assert stat.S_IMODE(made.path("output").stat().st_mode) == 0o700

    run_async(work())


def test_million_lines_leave_the_last_ones_and_the_loop_responsive() -> None:
    async def work() -> None:
        async with bench() as made:
            output = made.outputs.open("a.0", 5)
            worst = 0.0

            async def feel() -> None:
                nonlocal worst
                while True:
                    began = time.monotonic()
                    await asyncio.sleep(0.001)
                    worst = max(worst, time.monotonic() - began)

            feeling = asyncio.create_task(feel())
            await write(made, output, "seq", "1000000")
            feeling.cancel()
            assert texts(output.last(9)) == ["999996", "999997", "999998", "999999", "1000000"]
            assert worst < 0.5  # generous: this machine is shared; a blocked loop takes seconds

    run_async(work())


def test_a_follower_sees_every_line_of_a_stream_it_can_keep_up_with() -> None:
    async def work() -> None:
        async with bench() as made:
            seen: list[str] = []
            unsubscribe = made.outputs.subscribe(lambda instance, line: seen.append(f"{instance} {line.line}"))
            output = made.outputs.open("a.0", 2)
            await write(made, output, "seq", "100000")
            unsubscribe()
            assert seen == [f"a.0 {number}" for number in range(1, 100_001)]
            await write(made, output, "echo", "unheard")
            assert len(seen) == 100_000

    run_async(work())


def test_two_hundred_megabytes_without_newline_are_bounded_in_memory_and_on_disk() -> None:
    async def work() -> None:
        async with bench() as made:
            output = made.outputs.open("a.0", 50)
            await write(made, output, "sh", "-c", "head -c 200000000 /dev/zero | tr '\\0' x")
            (line,) = [line.line for line in output.last(50) if "skipped" not in line.line]
            assert len(line) < 17_000
            assert "more bytes cut" in line
            assert disk_bytes(made.path("output/a.0.out")) < 12_000_000
            output.close()
            assert disk_bytes(made.path("output/a.0.out")) < 400_000

    run_async(work())


def test_flood_is_skipped_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_file, "FLOOD_BYTES", 200_000)
    monkeypatch.setattr(stream_file, "FLOOD_RESUME_BYTES", 1_000)

    async def work() -> None:
        async with bench() as made:
            output = made.outputs.open("a.0", 1000)
            skips: list[int] = []
            output.on_skip = skips.append
            stdout, stderr = output.open_for_child()
            with open(stdout, "wb") as file:  # all at once, before the reader has a turn
                file.writelines(b"line %d\n" % number for number in range(50_000))
            os.close(stderr)
            await output.drain()
            lines = texts(output.last(1000))
            assert "bytes skipped, written faster than they could be read" in lines[0]
            assert lines[1].startswith("line ")
            assert lines[-1] == "line 49999"
            assert len(skips) == 1

    run_async(work())


def test_broken_utf8_becomes_replacement_characters() -> None:
    async def work() -> None:
        async with bench() as made:
            output = made.outputs.open("a.0", 5)
            await write(made, output, "printf", r"caf\303\251 \377\376\n")
            assert texts(output.last(1)) == ["café \ufffd\ufffd"]

    run_async(work())


def test_line_in_the_making_is_shown() -> None:
    async def work() -> None:
        async with bench() as made:
            output = made.outputs.open("a.0", 5)
            stdout, stderr = output.open_for_child()
            os.write(stdout, b"done\n50 %")
            await until(lambda: texts(output.last(5)) == ["done", "50 %"])
            os.write(stdout, b"\n")
            os.close(stdout)
            os.close(stderr)
            await until(lambda: output.record()["stdout"] == {**output.record()["stdout"], "offset": 10})  # type: ignore[dict-item]
            assert texts(output.last(5)) == ["done", "50 %"]

    run_async(work())


@pytest.mark.parametrize("act", ["rename", "delete"])
def test_renamed_or_deleted_file_under_load_loses_no_line(act: str) -> None:
    async def work() -> None:
        async with bench() as made:
            seen: list[str] = []
            made.outputs.subscribe(lambda _, line: seen.append(line.line))
            output = made.outputs.open("a.0", 5)
            path = made.path("output/a.0.out")
            writing = asyncio.create_task(write(made, output, *python(
                "import time\nfor n in range(400): print(n, flush=True); time.sleep(0.001)"
            )))  # fmt: skip
            await until(lambda: len(seen) > 20)
            path.rename(made.path("rotated")) if act == "rename" else path.unlink()
            await writing
            assert seen == [str(number) for number in range(400)]
            await write(made, output, "echo", "again")  # the next start has a file by the name again
            assert seen[-1] == "again"
            assert path.exists()

    run_async(work())


def test_truncation_under_load_leaves_no_sparse_file_and_no_stuck_reader() -> None:
    async def work() -> None:
        async with bench() as made:
            output = made.outputs.open("a.0", 5)
            path = made.path("output/a.0.out")
            writing = asyncio.create_task(write(made, output, *python(
                "import time\nfor n in range(300): print('x' * 100, n, flush=True); time.sleep(0.001)"
            )))  # fmt: skip
            for _ in range(5):
                await until(lambda: path.exists() and path.stat().st_size > 2000)
                os.truncate(path, 0)
            await writing
            assert texts(output.last(1))[0].endswith(" 299")
            with path.open("rb") as file:
                assert b"\0" not in file.read()

    run_async(work())


def test_without_hole_punching_the_file_is_emptied_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, length: int) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr(stream_file, "punch_hole", refuse)

    async def work() -> None:
        async with bench() as made:
            output = made.outputs.open("a.0", 3)
            await write(made, output, "seq", "1000000")
            assert texts(output.last(3)) == ["999998", "999999", "1000000"]
            stdout, stderr = output.open_for_child()
            os.write(stdout, b"y" * 3_000_000 + b"\nafter\n")
            await until(lambda: texts(output.last(1)) == ["after"])
            assert made.path("output/a.0.out").stat().st_size < 3_000_000
            os.write(stdout, b"more\n")
            await until(lambda: texts(output.last(1)) == ["more"])
            os.close(stdout)
            os.close(stderr)

    run_async(work())


def test_process_that_closes_its_streams_costs_nothing_and_loses_nothing() -> None:
    async def work() -> None:
        async with bench() as made:
            output = made.outputs.open("a.0", 5)
            await write(made, output, "sh", "-c", "echo before; exec >&- 2>&-; sleep 0.1")
            assert texts(output.last(5)) == ["before"]

    run_async(work())


def test_quiet_files_are_looked_at_once_a_second() -> None:
    async def work() -> None:
        async with bench() as made:
            outputs = [made.outputs.open(f"a.{number}", 5) for number in range(20)]
            for output in outputs:
                for fd in output.open_for_child():
                    os.close(fd)
            await until(lambda: made.outputs._delay == IDLE_SECONDS)
            began = time.process_time()
            for output in outputs:
                output.read(time.monotonic() + 1)
            assert time.process_time() - began < 0.01  # what one second of silence costs, for 20 processes

    run_async(work())


def test_next_daemon_goes_on_where_the_earlier_one_was() -> None:
    async def work() -> None:
        async with bench() as made:
            first = made.outputs.open("a.0", 50)
            stdout, stderr = first.open_for_child()
            os.write(stdout, b"one\ntwo\nthr")
            await until(lambda: texts(first.last(9)) == ["one", "two", "thr"])
            record = first.record()
            made.outputs.unfollow(first)
            os.write(stdout, b"ee\nfour\n")
            second = made.outputs.open("a.0", 50)
            second.adopt(record, os.getpid())
            await second.drain()
            # What was just read before is read again, so that last lines do not begin empty; nothing is torn.
            assert texts(second.last(9)) == ["one", "two", "three", "four"]
            os.close(stdout)
            os.close(stderr)

    run_async(work())


def test_next_daemon_finds_a_file_that_was_rotated_away_meanwhile() -> None:
    async def work() -> None:
        async with bench() as made:
            first = made.outputs.open("a.0", 50)
            stdout, stderr = first.open_for_child()
            child = made.reaper.spawn(
                ["sh", "-c", "echo one; while [ ! -e gone ]; do sleep 0.01; done; echo two; exec sleep 1000"],
                cwd=str(made.directory), env=None, stdout=stdout, stderr=stderr,
            )  # fmt: skip
            os.close(stdout)
            os.close(stderr)
            await until(lambda: texts(first.last(9)) == ["one"])
            record = first.record()
            first.close()
            made.path("output/a.0.out").unlink()
            made.path("output/a.0.out").touch()
            made.path("gone").touch()
            second = made.outputs.open("a.0", 50)
            second.adopt(record, child.identity.pid)
            await until(lambda: texts(second.last(9)) == ["one", "two"])
            made.reaper.signal_member(child.identity, 9)
            await child.exit

    run_async(work())


def test_symlink_or_fifo_in_the_place_of_a_file_is_refused() -> None:
    async def work() -> None:
        async with bench() as made:
            made.path("output").mkdir()
            made.path("output/a.0.out").symlink_to("/dev/null")
            with pytest.raises(OSError):
                made.outputs.open("a.0", 5).open_for_child()

    run_async(work())


def test_discard_removes_the_files() -> None:
    async def work() -> None:
        async with bench() as made:
            output = made.outputs.open("a.0", 5)
            await write(made, output, "echo", "hello")
            output.discard()
            assert list(made.path("output").iterdir()) == []
            assert texts(output.last(5)) == ["hello"]

    run_async(work())


def test_no_lines_are_kept_when_none_are_wanted() -> None:
    async def work() -> None:
        async with bench() as made:
            output = made.outputs.open("a.0", 0)
            await write(made, output, "seq", "10")
            assert output.last(5) == []

    run_async(work())
