"""A daemon killed at a bad moment, and the next one: what lives is taken over, nothing is lost or doubled."""

from __future__ import annotations

import shutil
import signal

from tests.support.application import Application
from tests.support.http import HttpConnection
from tests.support.load import Load
from tests.support.processes import is_running, kill_and_wait, send
from tests.support.waiting import wait_until


def kill_daemon(application: Application) -> None:
    assert application.daemon is not None
    application.daemon.kill()


def test_what_runs_is_taken_over_as_it_is(application: Application) -> None:
    application.processes["jobs"] = application.worker()
    application.processes["clock"] = application.worker("singleton")
    application.processes["broker"] = application.worker("service")
    application.release("v1")
    application.start("v1")
    before = {name: application.pid_of(name) for name in ("web", "jobs", "clock", "broker")}
    kill_daemon(application)
    assert application.serving()[1] == before["web"]
    application.start_daemon()
    assert {name: application.pid_of(name) for name in before} == before
    assert application.status()["orphans"] == []
    application.shutdown()


def test_services_that_survived_a_stop_are_taken_over_though_no_release_runs(application: Application) -> None:
    application.processes["broker"] = application.worker("service")
    application.release("v1")
    application.start("v1")
    broker = application.pid_of("broker")
    application.run("stop")
    kill_daemon(application)
    application.start_daemon()
    assert application.pid_of("broker") == broker
    application.deploy("v1")
    assert application.pid_of("broker") == broker
    application.shutdown()


def test_a_release_that_runs_is_resumed_though_its_directory_is_gone(application: Application) -> None:
    path = application.release("v1")
    application.start("v1")
    _, web = application.serving()
    kill_daemon(application)
    shutil.rmtree(path)
    application.start_daemon("--resume")
    assert application.serving() == ("v1", web)


def test_a_sigterm_while_an_interrupted_deploy_is_undone_leaves_nothing(application: Application) -> None:
    gate = application.gate("term")
    application.processes["jobs"] = application.worker()
    application.release("v1")
    application.release("v2", ping_status=500, term_gate=gate)
    application.start("v1")
    application.spawn(*application.deploy_arguments("v2"))
    wait_until(lambda: application.events("process started")[-1]["data"]["process"].startswith("v2.web"), "v2 starts")
    wait_until(lambda: application.get().status == 200, "the proxy answers")
    wait_until(lambda: "v2.web.0" in (application.runtime_dir / "state.json").read_text(), "the state file knows v2")
    kill_daemon(application)
    application.write_config()
    daemon = application.spawn("daemon")
    application.daemon = daemon
    gate_is_reached = lambda: gate.is_reached  # noqa: E731
    wait_until(gate_is_reached, "the next daemon stops v2")
    send(daemon.pid, signal.SIGTERM)
    wait_until(lambda: "shutting down" in daemon.stderr, "it shuts down")
    gate.open()
    application.wait_daemon_exit()
    wait_until(lambda: not application.survivors(), lambda: f"all is gone: {application.survivors()}", timeout=5.0)


def test_a_sigterm_in_the_first_moment_ends_the_daemon_soon(application: Application) -> None:
    application.write_config()
    daemon = application.spawn("daemon")
    application.daemon = daemon
    wait_until(lambda: "worker started" in daemon.stderr, "the worker starts")
    send(daemon.pid, signal.SIGTERM)
    assert application.wait_daemon_exit(10.0).code == 0
    application.assert_nothing_left()


def test_a_worker_that_is_stuck_does_not_keep_the_next_daemon_from_starting(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    (worker,) = application.proxy_workers()
    send(worker.pid, signal.SIGSTOP)
    kill_daemon(application)
    application.start_daemon()
    assert application.serving()[0] == "v1"
    assert not is_running(worker.pid)
    application.shutdown()


def test_a_daemon_killed_when_its_first_worker_starts_does_not_block_the_port(application: Application) -> None:
    application.write_config()
    daemon = application.spawn("daemon")
    wait_until(lambda: "worker started" in daemon.stderr, "the worker starts")
    daemon.kill()
    application.start_daemon()
    application.release("v1")
    application.deploy("v1")
    assert application.serving()[0] == "v1"
    application.shutdown()


def test_a_worker_that_comes_up_without_a_daemon_keeps_the_queue_of_clients(application: Application) -> None:
    application.release("v1")
    daemon = application.start("v1")

    def stop_one_that_comes_up() -> int:
        """Kill the worker, and stop its successor before that can be reached."""
        (worker,) = application.proxy_workers()
        kill_and_wait(worker.pid)
        (successor,) = wait_until(
            lambda: [line for line in application.proxy_workers() if line.pid != worker.pid],
            "another is started",
            poll=0.001,
        )
        send(successor.pid, signal.SIGSTOP)
        if not (application.runtime_dir / "worker-0.sock").exists():
            return successor.pid
        send(successor.pid, signal.SIGCONT)
        return 0

    worker = wait_until(stop_one_that_comes_up, "a worker is stopped while it comes up", poll=6.0)
    wait_until(lambda: f'"pid":{worker},' in (application.runtime_dir / "state.json").read_text(), "it is recorded")
    kill_and_wait(daemon)
    with HttpConnection(application.port) as client:
        client.send_request("GET", "/")
        next_daemon = application.daemon = application.spawn("daemon")
        lock = application.runtime_dir / "daemon.lock"
        wait_until(lambda: str(next_daemon.pid) in lock.read_text(), "the next daemon starts")
        send(worker, signal.SIGCONT)
        assert client.read_response().status == 200
    assert [line.pid for line in application.proxy_workers()] == [worker]
    application.shutdown()


def test_output_of_releases_that_an_earlier_daemon_stopped_is_not_kept_for_ever(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    application.shutdown()
    application.start_daemon()
    assert [path.name for path in (application.runtime_dir / "output").glob("v1.*")] == []


def test_a_web_process_that_died_with_its_daemon_is_started_again(application: Application) -> None:
    application.release("v1")
    application.start("v1")
    _, web = application.serving()
    kill_daemon(application)
    kill_and_wait(web)
    application.start_daemon()
    wait_until(lambda: application.serving()[0] == "v1", "it serves again")
    application.shutdown()


def test_a_web_process_that_died_with_its_daemon_is_started_again_beside_what_lives(application: Application) -> None:
    application.processes["jobs"] = application.worker()
    application.release("v1")
    application.start("v1")
    web, jobs = application.pid_of("web"), application.pid_of("jobs")
    kill_daemon(application)
    kill_and_wait(web)
    application.start_daemon()
    assert application.serving()[0] == "v1"
    assert application.pid_of("jobs") == jobs
    application.shutdown()


def test_a_daemon_that_cannot_start_leaves_what_runs_as_it_is(application: Application) -> None:
    application.release("v1")
    application.release("v2", exit_code=3)
    application.start("v1")
    serving = application.serving()
    kill_daemon(application)
    result = application.run("daemon", "--release-path", str(application.root / "releases" / "v2"), expect=1)
    assert "Release v1 is still serving" in result.stderr
    assert application.serving() == serving
    application.control_path.unlink(missing_ok=True)
    application.control_path.mkdir()
    application.run("daemon", expect=1)
    assert application.serving() == serving
    application.control_path.rmdir()
    application.start_daemon()
    assert application.serving() == serving
    application.shutdown()


def test_a_configuration_without_the_process_that_serves_is_refused_and_it_goes_on_serving(
    application: Application,
) -> None:
    application.release("v1")
    application.start("v1")
    serving = application.serving()
    kill_daemon(application)
    application.processes["site"] = application.processes.pop("web")
    application.write_config()
    assert "Put the configuration back" in application.run("daemon", expect=4).stderr
    assert application.serving() == serving
    application.processes["web"] = application.processes.pop("site")
    application.write_config()
    application.start_daemon()
    assert application.serving() == serving
    application.shutdown()


def test_a_process_that_is_new_in_the_configuration_does_not_keep_the_others_from_being_taken_over(
    application: Application,
) -> None:
    application.release("v1")
    application.start("v1")
    serving = application.serving()
    kill_daemon(application)
    application.config["processes"] = {
        "cache": application.worker(port=application.port + 20, env={"PORT": "{{port}}"}),
        **application.processes,
    }
    application.write_config()
    application.start_daemon()
    assert application.serving() == serving
    assert application.status()["orphans"] == []
    application.shutdown()


def test_more_replicas_in_the_configuration_do_not_keep_those_that_run_from_being_taken_over(
    application: Application,
) -> None:
    application.release("v1")
    application.start("v1")
    serving = application.serving()
    kill_daemon(application)
    application.processes["web"]["replicas"] = 2
    application.write_config()
    application.start_daemon()
    assert application.serving() == serving
    assert application.status()["orphans"] == []
    assert len(application.process_statuses("web", "v1")) == 1  # it has one port; the next deploy has two
    application.deploy("v1", "--force")
    assert len(application.process_statuses("web", "v1")) >= 2
    application.shutdown()


def test_of_daemons_that_start_in_the_same_moment_one_takes_over_and_the_others_leave(
    application: Application,
) -> None:
    application.processes["clock"] = application.worker("singleton")
    application.release("v1")
    application.start("v1")
    before = {name: application.pid_of(name) for name in ("web", "clock")}
    kill_daemon(application)
    with Load(application.port) as load:
        daemons = [application.spawn("daemon") for _ in range(5)]
        wait_until(lambda: sum(daemon.is_running for daemon in daemons) == 1, "all but one leave")
        (winner,) = [daemon for daemon in daemons if daemon.is_running]
        application.daemon = winner
        wait_until(lambda: "daemon ready" in winner.stderr, "the one that is left is ready")
        load.wait_for_more()
    for loser in daemons:
        if loser is not winner:
            result = loser.finish()
            assert result.code == 4
            assert f"pid {winner.pid} holds" in result.stderr or "another process" in result.stderr
    load.assert_no_failure()
    assert {name: application.pid_of(name) for name in before} == before
    assert [line.pid for line in application.daemons()] == [winner.pid]
    application.shutdown()
