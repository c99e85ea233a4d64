from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from rollbridge.config.load import load_config
from rollbridge.process.exits import ExitStatus
from rollbridge.process.managed import ProcessState
from rollbridge.release.admission import DeployRequest
from rollbridge.release.deploy import DeployResult, deploy, rollback
from rollbridge.release.errors import BadRequest, OperationFailed, OperationRefused
from rollbridge.release.operations import kill_everything, restart_processes, stop_release
from rollbridge.release.release import Connections
from rollbridge.release.states import ReleaseState
from rollbridge.release.steps import ProgressReport
from tests.release.fakes import FakeProcess, World, settled

CONFIG = """
application = "shop"
[proxy]
port = 8182
drain_timeout = "1h"
[release_retention]
keep = 2
[processes.web]
policy = "proxied"
command = ["web"]
port = "18182-18190"
health = false
[processes.worker]
command = ["worker"]
[processes.mailer]
command = ["mailer"]
non_blocking_drain = true
[processes.scheduler]
policy = "singleton"
command = ["scheduler"]
[processes.broker]
policy = "service"
command = ["broker"]
[processes.cache]
policy = "service"
command = ["cache"]
deploy_strategy = "handoff"
port = "18300-18310"
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    path = tmp_path / "rollbridge.toml"
    path.write_text(CONFIG)
    for name in ("r1", "r2", "r3", "r4"):
        (tmp_path / name).mkdir()
    return World(load_config(str(path), {"PATH": "/usr/bin"}))


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(_run(story), 30))


async def _run(story: Callable[[], Awaitable[None]]) -> None:
    await story()


async def bring(world: World, name: str, *, force: bool = False, wait: bool = False) -> DeployResult:
    path = str(Path(world.config.source_path).parent / name)
    report = ProgressReport(world.progress.append, world.fleet.around.clock)
    return await deploy(world.fleet, DeployRequest(path, force=force, wait=wait), report)


async def back(world: World, release_id: str | None = None) -> DeployResult:
    report = ProgressReport(world.progress.append, world.fleet.around.clock)
    return await rollback(world.fleet, release_id, False, report)


def states(world: World) -> dict[str, str]:
    return {release.key: release.state.value for release in world.fleet.releases}


def test_a_first_deploy_starts_services_first_and_singletons_after_the_switch(world: World) -> None:
    async def story() -> None:
        assert await bring(world, "r1") == DeployResult("r1", None, changed=True)
        assert world.journal == [
            "start broker",
            "start r1.cache.0",
            "start r1.worker.0",
            "start r1.mailer.0",
            "start r1.web.0",
            "switch r1",
            "redefine r1 broker",
            "start scheduler",
        ]

    run(story)


def test_the_phases_are_told_in_their_order(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        await bring(world, "r2")
        phases = list(dict.fromkeys(str(entry["phase"]) for entry in world.progress))
        assert phases == [
            "reload",
            "ports",
            "start",
            "health",
            "switch",
            "services",
            "singletons",
            "done",
            "retire",
        ]

    run(story)


def test_a_second_deploy_replaces_the_singleton_and_retires_the_old_release_last_of_all_its_handoff(
    world: World,
) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.journal.clear()
        assert await bring(world, "r2") == DeployResult("r2", "r1", changed=True)
        await settled()
        assert world.starts() == ["r2.cache.0", "r2.worker.0", "r2.mailer.0", "r2.web.0", "scheduler"]
        assert world.journal.index("stop scheduler") < world.journal.index("start scheduler")
        assert world.stops()[-1] == "r1.cache.0"
        assert states(world) == {"r1": "stopped", "r2": "active"}

    run(story)


def test_while_the_old_release_has_connections_only_what_need_not_wait_stops(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.traffic.set_in_flight("r1", Connections(http=1, websocket=2))
        world.journal.clear()
        await bring(world, "r2")
        await settled()
        assert world.stops() == ["scheduler", "r1.mailer.0"]
        assert states(world)["r1"] == "draining"
        world.traffic.set_in_flight("r1", Connections())
        await settled()
        assert states(world)["r1"] == "stopped"

    run(story)


def test_the_active_release_again_changes_nothing(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.journal.clear()
        assert await bring(world, "r1") == DeployResult("r1", "r1", changed=False)
        assert world.journal == []

    run(story)


def test_the_active_release_again_with_force_is_a_new_incarnation(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        await bring(world, "r1", force=True)
        await settled()
        assert states(world) == {"r1~2": "active"}

    run(story)


def test_the_active_id_from_another_path_is_refused(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        path = str(Path(world.config.source_path).parent / "r2")
        report = ProgressReport(world.progress.append, world.fleet.around.clock)
        with pytest.raises(OperationRefused, match="another --release-id"):
            await deploy(world.fleet, DeployRequest(path, release_id="r1"), report)

    run(story)


def test_a_process_that_does_not_start_undoes_the_deploy_services_included(world: World) -> None:
    async def story() -> None:
        world.broken.add("web")
        with pytest.raises(OperationFailed, match=r"command not found.*No release is serving") as caught:
            await bring(world, "r1")
        assert caught.value.phase == "start"
        assert set(world.stops()) == {"broker", "r1.cache.0", "r1.worker.0", "r1.mailer.0", "r1.web.0"}
        assert states(world) == {"r1": "failed"}
        assert world.fleet.last_failure is not None
        assert world.fleet.last_failure["release_id"] == "r1"

    run(story)


def test_a_failed_deploy_leaves_the_old_release_and_services_that_ran_before(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.journal.clear()
        world.exits["web"] = ExitStatus(3, None)
        with pytest.raises(OperationFailed, match=r"exited with code 3.*Release r1 is still serving"):
            await bring(world, "r2")
        assert "broker" not in world.stops()
        assert "switch r2" not in world.journal
        assert states(world) == {"r1": "active", "r2": "failed"}

    run(story)


def test_a_companion_that_ends_well_does_not_fail_the_deploy_and_one_that_crashes_does(world: World) -> None:
    async def story() -> None:
        world.exits["worker"] = ExitStatus(0, None)
        await bring(world, "r1")
        world.exits["worker"] = ExitStatus(1, None)
        with pytest.raises(OperationFailed, match=r"r2\.worker\.0 exited with code 1"):
            await bring(world, "r2")

    run(story)


def test_a_failed_try_does_not_hide_the_good_release_of_the_same_id(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        await bring(world, "r2")
        await settled()
        world.broken.add("web")
        with pytest.raises(OperationFailed):
            await bring(world, "r1")
        assert states(world) == {"r1": "stopped", "r2": "active"}

    run(story)


def test_a_singleton_that_does_not_start_is_reported_with_traffic_on_the_new_release(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.broken.add("scheduler")
        with pytest.raises(OperationFailed, match="Traffic is already on release r2"):
            await bring(world, "r2")
        await settled()
        assert states(world) == {"r1": "stopped", "r2": "active"}

    run(story)


def test_a_rollback_goes_to_the_most_recently_retired_release(world: World) -> None:
    async def story() -> None:
        for name in ("r1", "r2", "r3"):
            await bring(world, name)
            await settled()
        assert await back(world) == DeployResult("r2", "r3", changed=True)
        await settled()
        assert states(world)["r3"] == "stopped"

    run(story)


def test_a_rollback_to_a_draining_release_starts_nothing_of_it_but_what_was_already_stopped(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        web = world.fleet.releases[0].proxied[0]
        world.traffic.set_in_flight("r1", Connections(websocket=1))
        await bring(world, "r2")
        await settled()
        world.journal.clear()
        assert await back(world) == DeployResult("r1", "r2", changed=True)
        await settled()
        assert world.fleet.active is world.fleet.releases[0]
        assert world.fleet.releases[0].proxied == [web]
        assert sorted(world.starts()) == ["r1.mailer.0", "scheduler"]
        assert states(world) == {"r1": "active", "r2": "stopped"}

    run(story)


def test_a_release_whose_stop_has_begun_is_brought_up_anew(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.slow_stops["worker"] = asyncio.Event()
        await bring(world, "r2")
        await settled()
        assert world.fleet.releases[0].is_stopping
        await back(world)
        active = world.fleet.active
        assert active is not None
        assert active.key == "r1~2"
        world.slow_stops["worker"].set()
        await settled()
        assert states(world) == {"r1~2": "active", "r2": "stopped"}

    run(story)


def test_nothing_retired_nothing_to_roll_back_to(world: World) -> None:
    async def story() -> None:
        with pytest.raises(OperationRefused, match="nothing to roll back to"):
            await back(world)
        await bring(world, "r1")
        with pytest.raises(OperationRefused, match="not retained"):
            await back(world, "r9")
        assert (await back(world, "r1")).changed is False

    run(story)


def test_a_release_whose_directory_is_gone_cannot_come_back(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        await bring(world, "r2")
        await settled()
        (Path(world.config.source_path).parent / "r1").rmdir()
        with pytest.raises(OperationRefused, match="is gone"):
            await back(world, "r1")

    run(story)


def test_retention_forgets_the_oldest_and_their_output(world: World) -> None:
    async def story() -> None:
        for name in ("r1", "r2", "r3", "r4"):
            await bring(world, name)
            await settled()
        assert list(states(world)) == ["r2", "r3", "r4"]

    run(story)


def test_two_deploys_at_once_the_second_is_refused_or_waits(world: World) -> None:
    async def story() -> None:
        first = asyncio.create_task(bring(world, "r1"))
        waiting = asyncio.create_task(bring(world, "r2", wait=True))
        await asyncio.sleep(0)
        with pytest.raises(OperationRefused, match="busy with deploy r1"):
            await bring(world, "r3")
        await first
        assert (await waiting).previous_release_id == "r1"

    run(story)


def test_a_cancelled_deploy_leaves_nothing_of_itself(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.journal.clear()
        task = asyncio.create_task(bring(world, "r2"))
        while "start r2.web.0" not in world.journal:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert states(world) == {"r1": "active", "r2": "failed"}
        assert set(world.starts()) <= set(world.stops())

    run(story)


def test_a_path_that_does_not_exist_is_asked_wrongly(world: World) -> None:
    async def story() -> None:
        with pytest.raises(BadRequest, match="does not exist"):
            await bring(world, "nowhere")

    run(story)


def test_a_stop_ends_the_singletons_too_and_a_rollback_brings_all_back(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        stopped = await stop_release(world.fleet, None)
        assert stopped.state is ReleaseState.STOPPED
        assert world.traffic.route is not None
        assert world.traffic.route[:2] == (None, "stopped")
        assert "scheduler" in world.stops()
        assert "broker" not in world.stops()
        assert world.fleet.last_active is None
        await back(world)
        assert world.fleet.active is not None

    run(story)


def test_a_stop_that_takes_for_ever_does_not_keep_the_next_deploy_out(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.slow_stops["worker"] = asyncio.Event()
        stopping = asyncio.create_task(stop_release(world.fleet, None))
        await settled()
        await bring(world, "r2")
        assert not stopping.done()
        world.slow_stops["worker"].set()
        await stopping

    run(story)


def test_a_restart_leaves_the_proxied_process_alone(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        with pytest.raises(OperationRefused, match="--force"):
            await restart_processes(world.fleet, "web", None)
        with pytest.raises(OperationRefused, match="no process is called nobody"):
            await restart_processes(world.fleet, "nobody", None)
        assert await restart_processes(world.fleet, "worker", None) == ["r1.worker.0"]
        everything = await restart_processes(world.fleet, None, None)
        assert sorted(everything) == ["broker", "r1.cache.0", "r1.mailer.0", "r1.worker.0", "scheduler"]

    run(story)


def test_replicas_that_were_released_are_not_the_next_to_be_given_out(world: World) -> None:
    async def story() -> None:
        ports = []
        for name in ("r1", "r2", "r3"):
            await bring(world, name)
            await settled()
            active = world.fleet.active
            assert active is not None
            ports.append(active.ports["web"])
        assert ports == [(18182,), (18183,), (18184,)]

    run(story)


def test_a_revived_release_that_is_retired_again_does_not_get_its_companion_back_afterwards(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.traffic.set_in_flight("r1", Connections(websocket=1))
        gate = world.slow_stops["mailer"] = asyncio.Event()
        await bring(world, "r2")
        await settled()  # r1's mailer is being stopped, and takes its time
        await back(world)
        await settled()  # it is to come back when that is over
        await bring(world, "r3")
        world.traffic.set_in_flight("r1", Connections())
        await settled()
        world.journal.clear()
        gate.set()
        await settled()
        assert states(world)["r1"] == "stopped"
        assert "r1.mailer.0" not in world.starts()

    run(story)


def test_a_draining_release_whose_web_process_is_down_is_brought_up_anew(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.traffic.set_in_flight("r1", Connections(websocket=1))
        await bring(world, "r2")
        await settled()
        cast("FakeProcess", world.fleet.releases[0].proxied[0]).state = ProcessState.FAILED
        await back(world)
        active = world.fleet.active
        assert active is not None
        assert active.key == "r1~2"

    run(story)


def test_a_singleton_that_cannot_be_defined_for_a_release_is_found_out_before_the_switch(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        define_singleton(world, "run {{release_path}}")
        (Path(world.config.source_path).parent / "r 2").mkdir()
        report = ProgressReport(world.progress.append, world.fleet.around.clock)
        path = str(Path(world.config.source_path).parent / "r 2")
        with pytest.raises(OperationFailed, match=r"scheduler.*a shell would interpret.*Release r1 is still serving"):
            await deploy(world.fleet, DeployRequest(path, release_id="r2"), report)
        assert "switch r2" not in world.journal
        assert states(world)["r1"] == "active"

    run(story)


def test_a_rollback_to_a_draining_release_that_cannot_be_defined_any_more_changes_nothing(world: World) -> None:
    async def story() -> None:
        (Path(world.config.source_path).parent / "r 1").mkdir()
        report = ProgressReport(world.progress.append, world.fleet.around.clock)
        path = str(Path(world.config.source_path).parent / "r 1")
        await deploy(world.fleet, DeployRequest(path, release_id="r1"), report)
        world.traffic.set_in_flight("r1", Connections(websocket=1))
        await bring(world, "r2")
        define_singleton(world, "run {{release_path}}")
        with pytest.raises(OperationFailed, match=r"a shell would interpret.*Release r2 is still serving"):
            await back(world)
        assert states(world) == {"r1": "draining", "r2": "active"}

    run(story)


def define_singleton(world: World, command: str) -> None:
    scheduler = replace(world.config.processes["scheduler"], command=command)
    world.reconfigure(processes={**world.config.processes, "scheduler": scheduler})


def test_releases_that_failed_do_not_push_out_those_that_can_come_back(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        await bring(world, "r2")
        await settled()
        world.broken.add("web")
        for number in range(4):
            (Path(world.config.source_path).parent / f"bad{number}").mkdir()
            with pytest.raises(OperationFailed):
                await bring(world, f"bad{number}")
        assert states(world) == {"r1": "stopped", "r2": "active", "bad2": "failed", "bad3": "failed"}

    run(story)


def test_the_release_before_cannot_come_back_without_its_directory_named_or_not(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        await bring(world, "r2")
        await settled()
        (Path(world.config.source_path).parent / "r1").rmdir()
        with pytest.raises(OperationRefused, match="is gone"):
            await back(world)

    run(story)


def test_a_stop_that_a_rollback_overtakes_does_not_say_that_the_release_is_stopped(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.traffic.set_in_flight("r1", Connections(websocket=1))
        stopping = asyncio.create_task(stop_release(world.fleet, None))
        await settled()
        await back(world)
        with pytest.raises(OperationFailed, match="release r1 is active again"):
            await stopping

    run(story)


def test_a_restart_of_everything_leaves_out_what_a_stop_has_stopped(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        await stop_release(world.fleet, None)
        assert await restart_processes(world.fleet, None, None) == ["broker"]
        with pytest.raises(OperationRefused, match="nothing to restart"):
            await restart_processes(world.fleet, "scheduler", None)

    run(story)


def test_a_switch_is_written_down_before_anything_of_the_old_release_is_stopped(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.is_saving_noted = True
        world.journal.clear()
        await bring(world, "r2")
        await settled()
        switched = world.journal.index("switch r2")
        first_stop = next(at for at, entry in enumerate(world.journal) if entry.startswith("stop "))
        assert "save" in world.journal[switched:first_stop]

    run(story)


def test_a_release_that_dies_at_the_switch_is_switched_away_from_before_the_old_one_is_touched(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.journal.clear()

        def die() -> None:
            world.traffic.on_switch = lambda: None
            web = cast("FakeProcess", world.fleet.releases[-1].proxied[0])
            web.state, web.failure = ProcessState.FAILED, "r2.web.0 exited with code 9"

        world.traffic.on_switch = die
        with pytest.raises(OperationFailed, match=r"exited with code 9.*Release r1 is still serving"):
            await bring(world, "r2")
        assert [entry for entry in world.journal if entry.startswith("switch")] == ["switch r2", "switch r1"]
        assert not [entry for entry in world.stops() if entry.startswith(("r1.", "scheduler"))]
        assert states(world) == {"r1": "active", "r2": "failed"}
        with pytest.raises(OperationRefused, match="nothing to roll back to"):
            await back(world)

    run(story)


def test_without_ports_the_message_says_what_serves(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        world.fleet.shared_ports.update({str(port): port for port in range(18182, 18191)})
        with pytest.raises(OperationFailed, match=r"no 1 free port.*Release r1 is still serving"):
            await bring(world, "r2")

    run(story)


def test_a_path_that_cannot_even_be_looked_at_is_asked_wrongly(world: World) -> None:
    async def story() -> None:
        for name in ("nul\0byte", "x" * 300):
            with pytest.raises(BadRequest, match="release path"):
                await bring(world, name)

    run(story)


def test_a_second_request_to_end_reaches_what_outlived_a_process_that_had_failed(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        cast("FakeProcess", world.fleet.services["broker"]).state = ProcessState.FAILED
        world.journal.clear()
        await kill_everything(world.fleet)
        assert "kill broker" in world.journal

    run(story)


def test_a_failed_deploy_gives_the_turn_back_though_one_of_its_processes_takes_for_ever(world: World) -> None:
    async def story() -> None:
        await bring(world, "r1")
        worker = replace(world.config.processes["worker"], graceful_stop_seconds=None)
        proxy = replace(world.config.proxy, force_stop_timeout_seconds=0.01)
        world.reconfigure(processes={**world.config.processes, "worker": worker}, proxy=proxy)
        world.fleet.config = world.config
        world.slow_stops["worker"] = asyncio.Event()
        world.exits["web"] = ExitStatus(3, None)
        with pytest.raises(OperationFailed, match="r1 is still serving"):
            await bring(world, "r2")
        assert states(world)["r2"] == "starting"
        world.exits.clear()
        await bring(world, "r3")
        world.slow_stops["worker"].set()
        await settled()
        assert states(world) == {"r1": "stopped", "r2": "failed", "r3": "active"}

    run(story)


def test_an_id_that_fits_no_file_name_is_asked_wrongly(world: World) -> None:
    async def story() -> None:
        path = str(Path(world.config.source_path).parent / "r1")
        report = ProgressReport(world.progress.append, world.fleet.around.clock)
        with pytest.raises(OSError, match="too long"):
            Path(path, "x" * 256).touch()
        await deploy(world.fleet, DeployRequest(path, release_id="x" * 200), report)
        long = replace(world.config.processes["worker"], id="w" * 64)
        world.reconfigure(processes={**world.config.processes, long.id: long})
        world.fleet.config = world.config
        with pytest.raises(BadRequest, match="shorter --release-id"):
            await deploy(world.fleet, DeployRequest(path, release_id="y" * 200), report)

    run(story)
