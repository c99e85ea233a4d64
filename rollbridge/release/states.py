"""The life of a release as a table."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class ReleaseState(enum.Enum):
    STARTING = "starting"  # its processes run; it takes no traffic, healthy or not
    ACTIVE = "active"  # takes every new request
    DRAINING = "draining"  # finishes what it has; takes nothing new
    STOPPED = "stopped"  # every process of it is reaped; kept for rollback
    FAILED = "failed"  # never became active; what it started is stopped


class ReleaseEvent(enum.Enum):
    SWITCHED = "switched"  # every worker acknowledged it as the active release
    GAVE_UP = "gave_up"  # it did not start, or did not get healthy
    RETIRED = "retired"  # another release is active, or the operator stopped it
    REAPED = "reaped"  # the last of its processes is gone


class IllegalTransition(Exception):
    """Our defect, never the operator's: an event that the state's row does not know."""

    def __init__(self, state: ReleaseState, event: ReleaseEvent) -> None:
        super().__init__(f"a release that is {state.value} has no answer to {event.value}")


TRANSITIONS: Final[Mapping[ReleaseState, Mapping[ReleaseEvent, ReleaseState]]] = {
    ReleaseState.STARTING: {
        ReleaseEvent.SWITCHED: ReleaseState.ACTIVE,
        ReleaseEvent.GAVE_UP: ReleaseState.FAILED,
    },
    ReleaseState.ACTIVE: {
        ReleaseEvent.SWITCHED: ReleaseState.ACTIVE,  # a route sent again changes nothing
        ReleaseEvent.RETIRED: ReleaseState.DRAINING,
        ReleaseEvent.REAPED: ReleaseState.STOPPED,  # a shutdown stops without a drain
    },
    ReleaseState.DRAINING: {
        ReleaseEvent.SWITCHED: ReleaseState.ACTIVE,  # a rollback finds it still alive
        ReleaseEvent.RETIRED: ReleaseState.DRAINING,
        ReleaseEvent.REAPED: ReleaseState.STOPPED,
        ReleaseEvent.GAVE_UP: ReleaseState.FAILED,  # its deploy was undone behind the switch: it never served well
    },
    ReleaseState.STOPPED: {
        ReleaseEvent.REAPED: ReleaseState.STOPPED,
    },
    ReleaseState.FAILED: {
        ReleaseEvent.GAVE_UP: ReleaseState.FAILED,
        ReleaseEvent.REAPED: ReleaseState.FAILED,
    },
}


def next_state(state: ReleaseState, event: ReleaseEvent) -> ReleaseState:
    """Return the state after ``event``; raise IllegalTransition if none is legal."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(state, event) from None
