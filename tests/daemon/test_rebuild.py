"""What the processes and the proxy workers tell, when the state file does not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rollbridge.config.model import Config
from rollbridge.daemon.rebuild import Seen, Sighted, complete, unaccounted
from rollbridge.daemon.recorded import Record, RecordedState, read_recorded
from tests.config.reading import parse

CONFIG = """
[processes.web]
policy = "proxied"
command = "app"
port = "18182-18199"
replicas = 2

[processes.jobs]
command = "jobs"

[processes.cron]
policy = "singleton"
command = "cron"

[processes.broker]
policy = "service"
command = "broker"
port = 7331
"""
BOOT = "boot"
NOW = 5000.0


def config() -> Config:
    return parse(CONFIG)


def sighted(name: str, pid: int, release_id: str = "r1", port: int | None = None, **environ: str) -> Sighted:
    record: Record = {"id": name, "release_id": release_id, "pid": pid, "start_ticks": pid, "boot_id": BOOT}
    told = {
        "ROLLBRIDGE_RELEASE_ID": release_id,
        "ROLLBRIDGE_RELEASE_PATH": f"/releases/{release_id}",
        "ROLLBRIDGE_REVISION": f"rev-{release_id}",
        **({"ROLLBRIDGE_PORT": str(port)} if port else {}),
    }
    return Sighted({**record, "instance": f"token-{pid}"}, {**told, **environ})


def rebuilt(found: Sequence[Sighted], seen: Seen, recorded: RecordedState | None = None) -> RecordedState:
    return complete(recorded or read_recorded({}), found, seen, config(), BOOT, NOW)


def states(recorded: RecordedState) -> dict[str, str]:
    return {release.key: release.state.value for release in recorded.releases}


def ids(records: Sequence[Record]) -> list[object]:
    return [record["id"] for record in records]


def test_everything_finds_its_place() -> None:
    found = [
        sighted("r1.web.0", 10, port=18182),
        sighted("r1.web.1", 11, port=18183),
        sighted("r1.jobs.0", 12),
        sighted("cron", 13),
        sighted("broker", 14, port=7331),
    ]
    recorded = rebuilt(found, Seen(frozenset({"r1"}), frozenset({"r1"})))
    (release,) = recorded.releases
    assert (release.state.value, release.ports) == ("active", {"web": (18182, 18183)})
    assert ids(release.processes) == ["r1.web.0", "r1.web.1", "r1.jobs.0"]
    assert (ids(recorded.services), ids(recorded.singletons)) == (["broker"], ["cron"])
    assert recorded.shared_ports == {"broker": 7331}
    assert recorded.last_active is not None
    assert (recorded.last_active.release_path, recorded.last_active.revision) == ("/releases/r1", "rev-r1")
    assert (recorded.boot_id, recorded.orphans) == (BOOT, ())


def test_the_workers_say_which_release_is_which() -> None:
    found = [sighted(f"{key}.jobs.0", pid, key) for key, pid in (("r1", 10), ("r2", 20), ("r3", 30))]
    recorded = rebuilt(found, Seen(frozenset({"r2"}), frozenset({"r1", "r2"})))
    assert states(recorded) == {"r1": "draining", "r2": "active", "r3": "starting"}
    assert [release.drain_started_at for release in recorded.releases] == [NOW, None, None]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([sighted("r1.web.0", 10, port=18182)], {"r1": "active"}),
        ([sighted("r1.jobs.0", 10)], {}),
    ],
)
def test_without_a_worker_only_one_that_can_serve_is_taken_for_active(
    found: list[Sighted], expected: dict[str, str]
) -> None:
    recorded = rebuilt(found, Seen())
    assert states(recorded) == expected
    assert len(recorded.orphans) == (not expected)


def test_an_incarnation_has_its_own_key_and_the_release_its_id() -> None:
    recorded = rebuilt([sighted("r1.2~3.web.0", 10, "r1.2", 18182)], Seen(frozenset({"r1.2~3"}), frozenset({"r1.2~3"})))
    (release,) = recorded.releases
    assert (release.key, release.identity.release_id) == ("r1.2~3", "r1.2")


def test_the_port_of_a_replica_that_is_gone_is_told_by_the_others_or_chosen() -> None:
    active = Seen(frozenset({"r1"}), frozenset({"r1"}))
    only_jobs = rebuilt([sighted("r1.jobs.0", 12, ROLLBRIDGE_WEB_PORT="18190")], active)
    assert only_jobs.releases[0].ports == {"web": (18190, 18182)}
    only_second = rebuilt([sighted("r1.web.1", 11, port=18185, ROLLBRIDGE_WEB_PORT="18190")], active)
    assert only_second.releases[0].ports == {"web": (18190, 18185)}


@pytest.mark.parametrize("name", ["nonsense", "r1.gone.0", "web", "jobs"])
def test_what_the_config_has_no_place_for_is_an_orphan(name: str) -> None:
    recorded = rebuilt([sighted(name, 10)], Seen())
    assert ids(recorded.orphans) == [name]
    assert recorded.releases == ()


def test_a_release_without_its_path_is_not_made_up() -> None:
    one = sighted("r1.web.0", 10, port=18182)
    blank = Sighted(one.record, {})
    assert ids(rebuilt([blank], Seen(frozenset({"r1"}), frozenset({"r1"}))).orphans) == ["r1.web.0"]


RELEASE = {"key": "r1", "release_id": "r1", "release_path": "/releases/r1", "revision": "r1", "state": "active"}
STATE: dict[str, object] = {
    "boot_id": BOOT,
    "releases": [{**RELEASE, "processes": [{"id": "r1.web.0", "pid": 10}], "ports": {"web": [18182, 18183]}}],
    "singletons": [{"id": "cron", "pid": 13}],
    "last_active": {key: RELEASE[key] for key in ("release_id", "release_path", "revision")},
}


def test_a_start_that_the_older_state_does_not_know_takes_the_place_of_the_one_before() -> None:
    recorded = rebuilt([sighted("cron", 99), sighted("r1.web.0", 98, port=18182)], Seen(), read_recorded(STATE))
    assert [record["pid"] for record in recorded.singletons] == [99]
    assert [record["pid"] for record in recorded.releases[0].processes] == [98]
    assert [record["pid"] for record in recorded.orphans] == [13, 10]  # kept account of while they live


def test_beside_a_recorded_active_release_another_one_was_coming_up_or_drains() -> None:
    found = [sighted("r2.jobs.0", 20, "r2")]
    assert states(rebuilt(found, Seen(), read_recorded(STATE))) == {"r1": "active", "r2": "starting"}
    seen = Seen(frozenset({"r1"}), frozenset({"r1", "r2"}))
    assert states(rebuilt(found, seen, read_recorded(STATE))) == {"r1": "active", "r2": "draining"}


def test_of_a_state_of_another_boot_only_what_does_not_run_is_kept() -> None:
    recorded = rebuilt([sighted("cron", 99)], Seen(), read_recorded({**STATE, "boot_id": "earlier"}))
    assert states(recorded) == {"r1": "stopped"}
    assert recorded.releases[0].processes == () and recorded.releases[0].stopped_at == NOW
    assert recorded.last_active is not None and recorded.last_active.release_id == "r1"
    assert [record["pid"] for record in recorded.singletons] == [99]


def test_a_release_that_is_served_and_not_known_is_unaccounted_for() -> None:
    recorded = read_recorded(STATE)
    assert unaccounted(recorded, Seen(frozenset({"r1"}), frozenset({"r1"}))) == []
    assert unaccounted(recorded, Seen(frozenset({"r1", "r2"}), frozenset())) == ["r2"]
    assert unaccounted(read_recorded({}), Seen()) == []
    ended = read_recorded({**STATE, "releases": [{**RELEASE, "state": "stopped"}]})
    assert unaccounted(ended, Seen(frozenset({"r1"}), frozenset({"r1"}))) == ["r1"]
