"""Fixtures for tests with real processes: the built file, and applications that clean up after themselves."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.support.application import Application, python_command

CHECKOUT = Path(__file__).parent.parent
BUILD_TIMEOUT_SECONDS = 300.0
REPORTS = pytest.StashKey[dict[str, pytest.TestReport]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash.setdefault(REPORTS, {})[report.when] = report
    application = getattr(item, "funcargs", {}).get("application")
    if report.failed and isinstance(application, Application):
        report.sections.append(("rollbridge daemon", application.report()))
    return report


@pytest.fixture(scope="session")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The single file, built once for the whole run; ``ROLLBRIDGE_TEST_PYZ`` names one that is built already."""
    if given := os.environ.get("ROLLBRIDGE_TEST_PYZ"):
        return Path(given).resolve()
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # shared by the workers
    target = base / "dist" / "rollbridge.pyz"
    with (base / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            subprocess.run(
                [sys.executable, str(CHECKOUT / "build_zipapp.py"), "--output", str(target)],
                check=True,
                timeout=BUILD_TIMEOUT_SECONDS,
                cwd=CHECKOUT,
            )
    return target


@pytest.fixture
def make_application(pyz: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[], Application]]:
    """Makes applications; at the end each is shut down, and a process that survives that is an error."""
    made: list[Application] = []

    def make() -> Application:
        made.append(Application(python_command(pyz), request.node.name))
        return made[-1]

    yield make
    leftovers = []
    for application in made:
        leftovers += application.close()
        application.remove()
    if leftovers:
        pytest.fail("survived the shutdown of the daemon: " + "; ".join(map(str, leftovers)), pytrace=False)


@pytest.fixture
def application(make_application: Callable[[], Application]) -> Application:
    return make_application()
