"""``logs`` after the daemon has been killed: what its processes printed is in their files."""

from __future__ import annotations

from tests.support.application import Application
from tests.support.waiting import wait_until


def test_what_a_process_printed_is_shown_though_its_daemon_is_gone(application: Application) -> None:
    application.config["processes"]["jobs"] = {"command": "echo first; echo SECOND >&2; exec sleep 600"}
    application.release("v1")
    application.start("v1")
    wait_until(lambda: len(application.logged("jobs")) == 2, "both lines were read")
    chosen = application.run("logs", "--process", "jobs", "--grep", "^SEC", "--since", "1h")
    assert chosen.stdout.endswith("v1.jobs.0 ! SECOND\n")
    assert chosen.stdout.count("\n") == 1
    assert application.daemon is not None
    application.daemon.kill()
    found = application.run("logs", "--process", "jobs")
    assert sorted(found.stdout.splitlines()) == ["v1.jobs.0 ! SECOND", "v1.jobs.0 | first"]
    assert "output files" in found.stderr
    application.run("recover", "--force")
