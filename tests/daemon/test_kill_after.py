from __future__ import annotations

import pytest

from rollbridge.daemon.errors import DaemonFailed
from rollbridge.daemon.kill_after import VARIABLE, kill_after
from rollbridge.release.steps import pass_by


@pytest.mark.parametrize("environ", [{}, {VARIABLE: ""}])
def test_unset_it_is_not_there(environ: dict[str, str]) -> None:
    assert kill_after(environ) is pass_by


def test_a_step_that_there_is_not_is_named() -> None:
    with pytest.raises(DaemonFailed, match=r"names no step: lunch\. There are reload, ports"):
        kill_after({VARIABLE: "lunch:r1.web.0"})
