from __future__ import annotations

import pytest

from rollbridge.config.model import PortRange
from rollbridge.release.ports import PortFact, PortsExhausted, choose_ports


def all_free(port: int) -> PortFact:
    return PortFact.FREE


def test_the_first_free_port_is_taken() -> None:
    assert choose_ports("web", PortRange(100, 109), 1, {100, 101}, all_free) == (102,)


def test_replicas_get_as_many_ports_as_they_need() -> None:
    assert choose_ports("web", PortRange(100, 109), 3, {101}, all_free) == (100, 102, 103)


def test_the_search_goes_on_behind_the_last_port_and_wraps() -> None:
    assert choose_ports("web", PortRange(100, 102), 2, set(), all_free, start_after=101) == (102, 100)


def test_a_last_port_outside_the_range_is_ignored() -> None:
    assert choose_ports("web", PortRange(100, 102), 1, set(), all_free, start_after=7) == (100,)


def test_the_last_port_of_the_range_wraps_to_the_first() -> None:
    assert choose_ports("web", PortRange(100, 102), 1, set(), all_free, start_after=102) == (100,)


def test_exhaustion_says_where_the_ports_went() -> None:
    facts = {102: PortFact.IN_USE, 103: PortFact.NOT_BINDABLE, 104: PortFact.FREE}
    with pytest.raises(PortsExhausted) as caught:
        choose_ports("web", PortRange(100, 104), 2, {100, 101}, facts.__getitem__)
    assert (caught.value.reserved, caught.value.in_use, caught.value.not_bindable) == (2, 1, 1)
    message = str(caught.value)
    assert "100-104" in message
    assert "2 reserved" in message
    assert "1 in use" in message
    assert "1 not bindable" in message
    assert "processes.web.port" in message


def test_a_fixed_port_that_is_reserved_is_exhausted() -> None:
    with pytest.raises(PortsExhausted, match=r'Give processes\.web\.port a range, for example "100-109"'):
        choose_ports("web", PortRange(100, 100), 1, {100}, all_free)


def test_a_fixed_port_that_somebody_else_has_is_in_use() -> None:
    with pytest.raises(PortsExhausted, match="no 1 free port"):
        choose_ports("web", PortRange(100, 100), 1, set(), lambda port: PortFact.IN_USE)
