"""What the state file says after recover --force, and how each orphan is stopped."""

from __future__ import annotations

import signal

from rollbridge.daemon.intent import Intent
from rollbridge.daemon.recorded import read_recorded
from rollbridge.process.identity import ProcessIdentity
from rollbridge.process.tree import Instance
from rollbridge.release.states import ReleaseState
from rollbridge.takeover.ending import Survivor
from rollbridge.takeover.forcing import how_to_stop, state_after_force
from rollbridge.takeover.orphans import Orphan, Suspect
from tests.config.reading import parse

CONFIG = parse(
    """
[proxy]
force_stop_timeout = "4s"
[processes.web]
policy = "proxied"
command = "web"
port = 18182
graceful_stop = "indefinite"
[processes.worker]
command = "worker"
stop_signal = "SIGINT"
graceful_stop = "7s"
"""
)


def orphan(name: str, pid: int) -> Orphan:
    instance = Instance(ProcessIdentity(pid, 5, "boot"), "token", is_adopted=True)
    return Orphan(Suspect(name, "r1", instance), pid, 1.0, "x", (pid,))


def test_each_is_stopped_as_its_definition_says() -> None:
    def how(name: str) -> tuple[int, float]:
        return how_to_stop(orphan(name, 9).suspect, CONFIG)

    assert how("r1.worker.0") == (signal.SIGINT, 7.0)
    assert how("r1.0.2~3.worker.1") == (signal.SIGINT, 7.0)
    assert how("worker") == (signal.SIGINT, 7.0)  # as services and singletons are named
    assert how("r1.web.0") == (signal.SIGTERM, 4.0)  # forced: not indefinitely
    assert how("r1.gone.0") == (signal.SIGTERM, 4.0)
    assert how_to_stop(orphan("r1.web.0", 9).suspect, None) == (signal.SIGTERM, 10.0)


def test_what_could_not_be_stopped_is_kept_and_nothing_is_wanted() -> None:
    identity = {"release_id": "r1", "release_path": "/srv/r1", "revision": "r1"}
    state: dict[str, object] = {
        "format": 1,
        "boot_id": "boot",
        "intent": "serve",
        "last_active": identity,
        "releases": [
            {**identity, "key": "r1", "state": "active", "processes": [{"id": "r1.web.0"}]},
            {**identity, "key": "r2", "state": "starting", "processes": []},
            {**identity, "key": "r0", "state": "stopped", "processes": []},
            "nonsense",
        ],
        "services": [{"id": "broker"}],
        "workers": [{"index": 0}],
        "events": "nonsense",
    }
    orphans = [orphan("r1.web.0", 9), orphan("broker", 10)]
    survivors = [Survivor("broker (pid 10)", 11, "redis", "it hangs")]
    recorded = read_recorded(state_after_force(state, orphans, survivors, "2026-11-21T01:02:03.456Z"))
    assert recorded.intent is Intent.DOWN
    assert recorded.last_active is not None and recorded.last_active.release_id == "r1"
    assert [release.state for release in recorded.releases] == [
        ReleaseState.STOPPED,
        ReleaseState.FAILED,
        ReleaseState.STOPPED,
    ]
    assert all(not release.processes for release in recorded.releases)
    assert (recorded.services, recorded.singletons, recorded.workers) == ((), (), ())
    assert [(one["id"], one["pid"], one["why"]) for one in recorded.orphans] == [("broker", 10, "it hangs")]
    assert recorded.events[-1]["data"] == {"stopped": 1, "left": ["broker"]}
