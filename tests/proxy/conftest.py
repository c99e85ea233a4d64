"""One worker per test module; after each test nothing may be left in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.proxy.rig import Rig, clean


@pytest.fixture(scope="module")
def shared_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("worker")) as rig:
        yield rig


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    with clean(shared_rig) as rig:
        yield rig
