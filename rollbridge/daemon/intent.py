"""What the operator wants, as the state file keeps it: so that healing undoes neither a shutdown nor a stop.

A signal says nothing of it: a machine that goes down sends the daemon the same SIGTERM as ``kill`` does.
"""

from __future__ import annotations

import enum


class Intent(enum.Enum):
    SERVE = "serve"  # the daemon is to run, and the last active release to serve
    IDLE = "idle"  # the daemon is to run; no release is brought back before the next deploy
    DOWN = "down"  # ended by command: nothing is to run


def read_intent(value: object) -> Intent:
    """Return the intent that a state file names; one that it does not name, or names wrongly, is to serve."""
    return next((intent for intent in Intent if intent.value == value), Intent.SERVE)


def intent_at_start(recorded: Intent) -> Intent:
    """Return what a daemon that starts is wanted for: after a shutdown by command only for the next deploy."""
    return Intent.SERVE if recorded is Intent.SERVE else Intent.IDLE


def intent_now(intent: Intent, has_active: bool) -> Intent:
    """Return what is wanted once a release serves: that it goes on, unless everything is just being shut down."""
    return Intent.SERVE if has_active and intent is Intent.IDLE else intent
