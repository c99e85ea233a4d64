"""What managed processes print: files they write to, followed, bounded, and kept as last lines.

Processes write to files and not to pipes, so that a dead or stopped daemon neither blocks nor kills them, and the next
daemon goes on reading where this one was. All files are read by one poller: quickly while something is written, once
a second when all is quiet. What was read is given back to the disk (punched out), but for a window.

A file is followed by its descriptor, not its name: renamed or deleted, it is still what the process writes to.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from rollbridge.process.clock import Clock, format_at
from rollbridge.process.stream_file import StreamFile

FAST_SECONDS = 0.02  # while something is being written
IDLE_SECONDS = 1.0  # when nothing was written for two seconds: a stat per file and second costs nothing
WATCHED_SECONDS = 0.1  # the slowest while somebody follows the lines
TICK_SECONDS = 0.004  # work per turn of the loop; then the control socket and the rest have theirs
SKIP_REPORT_SECONDS = 10.0  # a flood is one event in this time, not one per skip

LineListener = Callable[[str, "LogLine"], None]


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line a process printed. ``at`` is when it was read; ``stream`` is ``stdout`` or ``stderr``."""

    at: str
    stream: str
    line: str


class ProcessOutput:
    """The two files of one instance, and its last lines. Opened anew at every start, closed when it has ended."""

    def __init__(self, follower: OutputFollower, instance_id: str, keep_lines: int) -> None:
        self._follower = follower
        self.instance_id = instance_id
        self._kept: deque[LogLine] = deque(maxlen=keep_lines)
        base = follower.directory / instance_id
        self._streams = {
            "stdout": StreamFile(Path(f"{base}.out"), "stdout"),
            "stderr": StreamFile(Path(f"{base}.err"), "stderr"),
        }
        self.on_skip: Callable[[int], None] | None = None
        self._skipped = 0
        self._skip_reported = -SKIP_REPORT_SECONDS

    @property
    def keep_lines(self) -> int:
        return self._kept.maxlen or 0

    @keep_lines.setter
    def keep_lines(self, number: int) -> None:
        if number != self._kept.maxlen:
            self._kept = deque(self._kept, maxlen=number)

    def open_for_child(self, owner: int | None = None) -> tuple[int, int]:
        """Open both files, follow them, and return descriptors for stdout and stderr, which the caller closes.

        They belong to the uid ``owner``, None: to us, so that the process can open /dev/stdout anew. Raises OSError.
        """
        self._follower.prepare_directory()
        for stream in self._streams.values():
            for line in stream.open():
                self._keep(stream.name, [line])
            stream.give_to(os.geteuid() if owner is None else owner)
        self._follower.follow(self)
        return self.duplicates()

    def duplicates(self) -> tuple[int, int]:
        """Descriptors of both files for one more writer, which the caller closes; raises OSError when closed."""
        stdout = self._streams["stdout"].duplicate()
        try:
            return stdout, self._streams["stderr"].duplicate()
        except OSError:
            os.close(stdout)
            raise

    def adopt(self, record: Mapping[str, object], pid: int) -> None:
        """Follow the files of a process that is alive already, from where ``record`` says we were."""
        self._follower.prepare_directory()
        for number, stream in enumerate(self._streams.values(), start=1):
            place = record.get(stream.name)
            stream.adopt(place if isinstance(place, Mapping) else {}, f"/proc/{pid}/fd/{number}")
        self._follower.follow(self)

    def record(self) -> dict[str, object]:
        """Where reading stands, for the state file."""
        return {name: stream.record() for name, stream in self._streams.items()}

    def read(self, deadline: float) -> bool:
        """Read until nothing is left or time.monotonic() reaches ``deadline``; return whether anything was read."""
        has_read = False
        for stream in self._streams.values():
            last = None if self._follower.has_listeners else self.keep_lines
            while True:
                is_repeated = stream.is_rereading
                try:
                    lines, count, skipped = stream.read(last)
                except OSError as error:
                    # One disk that fails must neither stop the poller nor hold up the process's end.
                    stream.close()
                    self._keep(stream.name, [f"[rollbridge: output cannot be read any more: {error.strerror}]"])
                    break
                if skipped:
                    self._note_skip(stream.name, skipped)
                if lines:
                    self._keep(stream.name, lines, is_repeated=is_repeated)
                has_read = has_read or count > 0
                if count == 0 or time.monotonic() >= deadline:
                    break
        return has_read

    async def drain(self) -> None:
        """Read everything written up to now, so that the last lines are complete; an unfinished line counts as one."""
        goals = {name: stream.size() for name, stream in self._streams.items()}
        while any(not stream.has_reached(goals[name]) for name, stream in self._streams.items()):
            if not self.read(time.monotonic() + TICK_SECONDS):
                break
            await asyncio.sleep(0)
        for name, stream in self._streams.items():
            self._keep(name, stream.flush())

    def last(self, count: int) -> list[LogLine]:
        """The last ``count`` lines, unfinished ones included (a prompt, a progress bar)."""
        unfinished = [
            LogLine(format_at(self._follower.clock.utc_now()), name, text)
            for name, stream in self._streams.items()
            if (text := stream.peek()) is not None
        ]
        return [*self._kept, *unfinished][-count:] if count > 0 else []

    def close(self) -> None:
        """Stop following; the files stay, cut down to their window."""
        self._follower.unfollow(self)
        for stream in self._streams.values():
            stream.seal()
            stream.close()

    def discard(self) -> None:
        """Stop following and remove the files."""
        self._follower.unfollow(self)
        for stream in self._streams.values():
            stream.close()
            stream.path.unlink(missing_ok=True)

    def _keep(self, stream: str, lines: list[str], *, is_repeated: bool = False) -> None:
        """Keep ``lines`` as the last; whoever listens has heard the repeated ones, from an earlier daemon."""
        if not lines:
            return
        at = format_at(self._follower.clock.utc_now())
        for text in lines:
            line = LogLine(at, stream, text)
            self._kept.append(line)
            if not is_repeated:
                self._follower.publish(self.instance_id, line)

    def _note_skip(self, stream: str, count: int) -> None:
        self._keep(stream, [f"[rollbridge: {count} bytes skipped, written faster than they could be read]"])
        self._skipped += count
        now = self._follower.clock.monotonic()
        if self.on_skip is not None and now - self._skip_reported >= SKIP_REPORT_SECONDS:
            self._skip_reported = now
            self.on_skip(self._skipped)
            self._skipped = 0


class OutputFollower:
    """The one poller for all output files below ``directory`` (``<runtime_dir>/output``)."""

    def __init__(self, directory: str | Path, clock: Clock) -> None:
        self.directory = Path(directory)
        self.clock = clock
        self._followed: deque[ProcessOutput] = deque()
        self._listeners: list[LineListener] = []
        self._timer: asyncio.Handle | None = None
        self._delay = FAST_SECONDS

    @property
    def has_listeners(self) -> bool:
        return bool(self._listeners)

    def open(self, instance_id: str, keep_lines: int) -> ProcessOutput:
        """The output of one instance; nothing is opened yet."""
        return ProcessOutput(self, instance_id, keep_lines)

    def delete_others(self, instance_ids: Collection[str]) -> None:
        """Delete the files of all other instances: releases of an earlier daemon, whose output nobody can ask for."""
        for path in self.directory.glob("*.*"):
            if path.suffix in (".out", ".err") and path.stem not in instance_ids:
                path.unlink(missing_ok=True)

    def prepare_directory(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def subscribe(self, listener: LineListener) -> Callable[[], None]:
        """Call ``listener`` with instance id and line for every line from now on; return what ends that."""
        self._listeners.append(listener)
        self._hurry()

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def publish(self, instance_id: str, line: LogLine) -> None:
        for listener in list(self._listeners):
            listener(instance_id, line)

    def follow(self, output: ProcessOutput) -> None:
        if output not in self._followed:
            self._followed.append(output)
        self._hurry()

    def unfollow(self, output: ProcessOutput) -> None:
        if output in self._followed:
            self._followed.remove(output)

    def close(self) -> None:
        """Stop polling and close every file; they stay on disk."""
        for output in list(self._followed):
            output.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hurry(self) -> None:
        self._delay = FAST_SECONDS
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._delay, self._tick) if self._followed else None

    def _tick(self) -> None:
        self._timer = None
        if not self._followed:
            return
        began = time.monotonic()
        deadline = began + TICK_SECONDS
        has_read = False
        for _ in range(len(self._followed)):
            # Round and round: when time is up, the next turn begins with those that had none.
            output = self._followed[0]
            self._followed.rotate(-1)
            has_read = output.read(deadline) or has_read
            if time.monotonic() >= deadline:
                # As long a pause as the work took: a flood costs half of one core at most.
                self._delay = FAST_SECONDS
                self._timer = asyncio.get_running_loop().call_later(time.monotonic() - began, self._tick)
                return
        slowest = WATCHED_SECONDS if self._listeners else IDLE_SECONDS
        self._delay = FAST_SECONDS if has_read else min(self._delay * 2, slowest)
        self._timer = asyncio.get_running_loop().call_later(self._delay, self._tick)
