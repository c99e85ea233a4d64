"""The state file of real daemons: damaged at any byte, lost, unreadable, of a version to come, on a full disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rollbridge.daemon.recorded import RecordedState, read_recorded
from rollbridge.daemon.state_file import LoadedState, previous_path, read_state_file
from rollbridge.daemon.state_format import StateUnusable, decode_state, encode_state
from rollbridge.process.records import decode_record
from tests.support.application import Application
from tests.support.load import Load
from tests.support.processes import is_running, kill_and_wait, marked
from tests.support.waiting import wait_until

NEWER_VERSION = "9.9.9"


@pytest.fixture
def with_everything(application: Application) -> Application:
    application.processes["jobs"] = application.worker(replicas=2)
    application.processes["cron"] = application.worker("singleton")
    application.processes["broker"] = application.worker("service")
    for name in ("v1", "v2"):
        application.release(name)
    return application


def pids(application: Application) -> dict[str, int]:
    return {process["id"]: process["pid"] for process in application.all_process_statuses() if process["pid"]}


def recorded_pids(recorded: RecordedState) -> set[object]:
    records = [process for release in recorded.releases for process in release.processes]
    records += [*recorded.services, *recorded.singletons, *recorded.orphans]
    return {record["pid"] for record in records if record["pid"] is not None}


def crash(application: Application) -> None:
    """kill -9 the daemon once its state file names everything that runs."""
    assert application.daemon is not None
    wait_until(
        lambda: set(pids(application).values()) <= recorded_pids(read_recorded(application.state())),
        "the state file is up to date",
    )
    application.daemon.kill()
    application.daemon = None


def seal(body: bytes) -> bytes:
    """As a rollbridge of another version would write it: ``body`` is what follows the seal."""
    return b'{"seal":"sha256:' + hashlib.sha256(body).hexdigest().encode() + b'",' + body


def newer(data: bytes) -> bytes:
    body = data.partition(b'",')[2]
    body = body.replace(b'"format":1,', b'"format":2,', 1)
    version = json.loads(data)["version"]
    return seal(body.replace(f'"version":"{version}"'.encode(), f'"version":"{NEWER_VERSION}"'.encode(), 1))


# --- damage


def test_a_real_state_damaged_at_any_byte_loses_nobody(with_everything: Application) -> None:
    """Pure, but for where the file comes from: a drain, an orphan, all policies, and the events of it all."""
    application = with_everything
    application.start("v1")
    with application.websocket() as websocket:
        websocket.echo("one")
        application.deploy("v2")
        application.forge_state(lambda state: state["orphans"].append({**state["singletons"][0], "id": "left"}))
        data = application.state_path.read_bytes()
        expected = recorded_pids(read_recorded(application.state()))
        assert len(expected) == 8, expected
        states = {release["state"] for release in application.state()["releases"]}
        assert states == {"active", "draining"}
        crash(application)
        before = Path(previous_path(str(application.state_path))).read_bytes()
    assert recorded_pids(read_recorded(decode_state(before))) >= set(pids_of_releases(before))
    for offset in range(len(data)):
        for bit in (0x01, 0x20, 0x80):
            damaged = data[:offset] + bytes([data[offset] ^ bit]) + data[offset + 1 :]
            try:
                state = decode_state(damaged)
            except StateUnusable:
                continue  # the one before it is used
            # A broken seal that nothing else was hit with: whoever wrote no version did not seal either.
            assert recorded_pids(read_recorded(state)) == expected
        with pytest.raises(StateUnusable):
            decode_state(data[:offset])


def pids_of_releases(data: bytes) -> list[int]:
    releases = json.loads(data)["releases"]
    return [process["pid"] for release in releases for process in release["processes"] if process["pid"]]


def test_a_state_without_a_seal_is_read_for_what_still_makes_sense() -> None:
    process = {"id": "v1.web.0", "release_id": "v1", "pid": 5, "start_ticks": 7, "boot_id": "b", "instance": "t"}
    release = {"key": "v1", "release_id": "v1", "release_path": "/v1", "revision": "v1", "state": "active"}
    state = {"format": 1, "boot_id": "b", "releases": [{**release, "processes": [process]}], "orphans": [process]}
    data = json.dumps(state).encode()
    for offset in range(len(data)):
        for byte in (*b'"{}[],:0', data[offset] ^ 0x01, data[offset] ^ 0x80):
            damaged = data[:offset] + bytes([byte]) + data[offset + 1 :]
            try:
                recorded = read_recorded(decode_state(damaged))
            except StateUnusable:
                continue
            for record in (*recorded.orphans, *(one for found in recorded.releases for one in found.processes)):
                with contextlib.suppress(ValueError):
                    decode_record(record)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b'"active"') + 3] ^= 0x01
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def damage_both(path: Path) -> None:
    flip(path)
    empty(Path(previous_path(str(path))))


@pytest.mark.parametrize("damage", [flip, cut, empty, remove, damage_both])
def test_whatever_happens_to_the_file_everything_is_taken_over_and_no_request_fails(
    with_everything: Application, damage: Callable[[Path], None]
) -> None:
    application = with_everything
    application.start("v1")
    with Load(application.port) as load, application.websocket() as websocket:
        assert websocket.echo("one").startswith("v1:")
        application.deploy("v2")
        before = pids(application)
        crash(application)
        damage(application.state_path)
        load.wait_for_more()
        application.start_daemon()
        load.wait_for_more()
        assert pids(application) == before
        assert {one["release_id"]: one["state"] for one in application.status()["releases"]} == {
            "v1": "draining",
            "v2": "active",
        }
        assert application.status()["orphans"] == []
        assert websocket.echo("two").startswith("v1:")
        if damage is not remove:
            (event,) = application.events("state file unusable")
            assert "unusable-1" in event["data"]["error"]
    wait_until(lambda: application.state_of("v1") == "stopped", "the drain goes on to its end")
    application.release("v3")
    application.deploy("v3")
    load.assert_no_failure()
    wait_until(lambda: len(application.journal("start", "cron")) == 3, "one singleton a release, and no more")
    application.shutdown()


def test_an_old_file_that_somebody_has_put_back_takes_nobody_back(with_everything: Application) -> None:
    application = with_everything
    application.start("v1")
    old = application.state_path.read_bytes()
    with Load(application.port) as load:
        application.deploy("v2")
        wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped")
        before = pids(application)
        crash(application)
        application.state_path.write_bytes(old)
        application.start_daemon()
        load.wait_for_more()
        assert pids(application) == before
        assert application.status()["active_release_id"] == "v2"
        assert application.status()["orphans"] == []
    load.assert_no_failure()
    application.shutdown()


def test_what_was_coming_up_when_the_file_was_lost_is_undone(with_everything: Application) -> None:
    application = with_everything
    gate = application.gate("boot")
    application.release("v2", boot_gate=gate)
    application.start("v1")
    before = pids(application)
    deploy = application.spawn(*application.deploy_arguments("v2"))
    gate.wait_reached()
    candidate = application.pid_of("web", "v2")
    crash(application)
    deploy.finish()
    damage_both(application.state_path)
    application.start_daemon()
    assert not is_running(candidate)
    assert {name: pid for name, pid in pids(application).items() if not name.startswith("v2.")} == before
    assert application.state_of("v2") == "failed"
    gate.open()
    application.deploy("v2")
    application.shutdown()


def test_without_a_worker_that_could_tell_the_only_release_is_the_one_that_served(
    with_everything: Application,
) -> None:
    application = with_everything
    application.start("v1")
    before = pids(application)
    (worker,) = application.proxy_workers()
    crash(application)
    kill_and_wait(worker.pid)
    damage_both(application.state_path)
    said = application.run("recover", "--heal", "--quiet").stdout
    assert "cannot be used" in said and "release v1 serves (5 of 5 processes taken over" in said
    assert pids(application) == before
    assert application.serving()[0] == "v1"
    application.run("shutdown")
    application.assert_nothing_left()


def test_a_release_that_is_served_and_cannot_be_found_is_left_to_the_workers(application: Application) -> None:
    application.release("v1")
    # Its processes wipe their environment and print elsewhere: nothing tells whose they are.
    web = application.processes["web"]
    web["command"] = ["env", "-i", "sh", "-c", 'exec "$@" >/dev/null 2>&1', "sh", *web["command"]]
    application.start("v1")
    serving = application.serving()
    crash(application)
    damage_both(application.state_path)
    refused = application.run("daemon", expect=4)
    assert "serve release v1, and no state file tells of its processes" in refused.stderr
    assert application.serving() == serving
    assert "no state file tells of its processes" in application.run("recover", "--heal", expect=1).stderr
    assert application.serving() == serving
    application.run("recover", "--force")
    kill_and_wait(serving[1])


# --- a version to come


def test_a_newer_format_is_left_alone_by_every_command(with_everything: Application) -> None:
    application = with_everything
    application.start("v1")
    before = pids(application)
    serving = application.serving()
    crash(application)
    data = newer(application.state_path.read_bytes())
    application.state_path.write_bytes(data)
    files = sorted(path.name for path in application.runtime_dir.glob("state.json*"))
    for arguments, code in (
        (("daemon",), 4),
        (("ensure-daemon",), 4),
        (application.deploy_arguments("v2", "--ensure-daemon"), 4),
        (("recover",), 1),
        (("recover", "--check"), 1),
        (("recover", "--heal"), 4),
        (("recover", "--force"), 4),
        (("predeploy-cleanup",), 4),
    ):
        result = application.run(*arguments, expect=code)
        assert f"rollbridge {NEWER_VERSION} wrote it in format 2" in result.stdout + result.stderr, arguments
        assert "Traceback" not in result.stderr
    assert application.state_path.read_bytes() == data
    assert sorted(path.name for path in application.runtime_dir.glob("state.json*")) == files
    assert all(is_running(pid) for pid in before.values())
    assert application.serving() == serving
    application.state_path.write_bytes(encode_state(json.loads(data)))
    application.start_daemon()
    assert pids(application) == before
    application.shutdown()


def test_a_state_of_a_newer_version_in_the_same_format_is_taken_over(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    before = pids(application)
    crash(application)
    state = {**application.state(), "what_only_it_knows": 1, "version": NEWER_VERSION}
    state.pop("seal")
    application.state_path.write_bytes(seal(json.dumps(state).encode()[1:]))
    application.start_daemon()
    assert pids(application) == before
    application.shutdown()


# --- a disk that is full, read-only, or not to be read from


def test_a_state_file_that_cannot_be_read_is_not_taken_for_none(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    serving = application.serving()
    crash(application)
    kept = application.state_path.rename(application.root / "kept")
    application.state_path.mkdir()
    refused = application.run("daemon", expect=1)
    assert f"state file {application.state_path} cannot be read" in refused.stderr
    assert "cannot be read" in application.run("recover", "--heal", expect=1).stderr
    assert application.serving() == serving
    application.state_path.rmdir()
    kept.rename(application.state_path)
    application.start_daemon()
    assert application.serving() == serving
    application.shutdown()


def test_without_room_for_the_state_the_daemon_goes_on_says_so_once_and_recovers(
    with_everything: Application,
) -> None:
    """No file of the daemon may grow: what a full disk is to it, without one."""
    application = with_everything
    application.processes["broker"] = {"policy": "service", "command": ["sleep", "1000"]}  # writes nothing itself
    pid = application.start("v1")
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    with Load(application.port) as load:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
        written = application.state_path.read_bytes()
        # Each of these wants to be written.
        for _ in range(3):
            application.run("restart", "--process", "broker")
        wait_until(lambda: application.events("state file not written"), "it says so")
        check = application.run("recover", "--check", expect=1)
        assert "cannot be written" in check.stdout and "File too large" in check.stdout
        load.wait_for_more()
        assert len(application.events("state file not written")) == 1
        assert application.state_path.read_bytes() == written
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        wait_until(lambda: application.events("state file written again"), "it is written again", timeout=20.0)
    load.assert_no_failure()
    assert application.pid_of("broker") in recorded_pids(read_recorded(application.state()))
    assert application.run("recover", "--check").stdout.startswith("ok:")
    application.shutdown()


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of its own for the state."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M,mode=0700", "rollbridge-test", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def can_mount(tmp_path_factory: pytest.TempPathFactory) -> bool:
    try:
        with small_disk(tmp_path_factory.mktemp("mount") / "here"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_deploys_go_on_while_the_disk_of_the_state_is_in_trouble(
    with_everything: Application, trouble: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if os.geteuid() != 0 or not can_mount(tmp_path_factory):
        pytest.skip("only root can mount a disk of its own")
    application = with_everything
    with small_disk(application.root / "disk") as disk:
        application.config["state_path"] = str(disk / "state.json")
        application.start("v1")
        with Load(application.port) as load:
            if trouble == "full":
                with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
                    while ballast.write(bytes(4096)):
                        pass
            else:
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            application.deploy("v2")
            load.wait_for_release("v2")
            wait_until(lambda: application.state_of("v1") == "stopped", "v1 is stopped")
            (event,) = application.events("state file not written")
            assert ("No space left" if trouble == "full" else "Read-only") in event["data"]["error"]
            assert application.state()["active"] == "v1"  # the last that could be written, whole
            if trouble == "full":
                (disk / "ballast").unlink()
            else:
                subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            wait_until(lambda: application.events("state file written again"), "it is written again", timeout=20.0)
            assert application.state()["active"] == "v2"
        load.assert_no_failure()
        application.shutdown()


def test_a_shutdown_that_cannot_be_written_down_says_what_comes_of_it(application: Application) -> None:
    application.release("v1")
    pid = application.start("v1")
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    result = application.shutdown()
    assert "the state file could not be written (File too large)" in result.stderr
    assert "`recover --heal`" in result.stderr
    assert application.state()["intent"] == "serve"


# --- its readers


class Reader:
    """Opens the state file over and over, from a thread, and keeps what was not whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: set[bytes] = set()
        self.broken: list[bytes] = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._is_over.wait(0.002):
            data = self.path.read_bytes()
            if data in self.seen:
                continue
            self.seen.add(data)
            try:
                json.loads(data)
                decode_state(data)
            except (ValueError, StateUnusable):
                self.broken.append(data)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def test_a_reader_finds_the_file_whole_at_any_moment_under_load_and_kills(with_everything: Application) -> None:
    application = with_everything
    application.start("v1")
    with Load(application.port) as load, Reader(application.state_path) as reader:
        for round_number in range(4):
            deploy = application.spawn(*application.deploy_arguments("v2", "--force"))
            application.run("restart", "--process", "broker", expect=None)
            if round_number % 2:
                deploy.finish()
            assert application.daemon is not None
            application.daemon.kill()  # anywhere in what it was doing
            deploy.finish()
            application.start_daemon()
            load.wait_for_more()
    load.assert_no_failure()
    assert reader.broken == []
    assert len(reader.seen) > 20
    application.shutdown()


def test_reading_changes_nothing(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    crash(application)
    cut(application.state_path)
    files = {path.name: path.read_bytes() for path in application.runtime_dir.glob("state.json*")}
    loaded: LoadedState = read_state_file(str(application.state_path))
    assert loaded.state["active"] == "v1" and not loaded.is_whole
    for arguments, code in ((("recover",), 1), (("recover", "--check"), 1)):
        application.run(*arguments, expect=code)
    assert {path.name: path.read_bytes() for path in application.runtime_dir.glob("state.json*")} == files
    listed = application.run("recover", "--json", expect=1).json["orphans"]
    assert [one["id"] for one in listed] == ["v1.web.0", "proxy worker 0"]
    assert "stopped v1.web.0" in application.run("recover", "--force").stdout
    assert marked(application.mark) == []
    assert application.state()["intent"] == "down"
    assert len(list(application.runtime_dir.glob("state.json.unusable-*"))) == 1
