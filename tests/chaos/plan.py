"""What a chaos run does and when: a function of the seed. Pure."""

from __future__ import annotations

import enum
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final


class Kind(enum.Enum):
    """``kill …`` is SIGKILL; the others are what an operator or cron does."""

    KILL_DAEMON = "kill daemon"
    KILL_WORKER = "kill proxy worker"
    KILL_WEB = "kill web"
    KILL_COMPANION = "kill companion"
    KILL_SINGLETON = "kill singleton"
    KILL_SERVICE = "kill service"
    DEPLOY = "deploy"
    DEPLOY_FAILING = "failing deploy"
    DEPLOY_CUT = "deploy cut off"  # the daemon is killed in the middle of it
    ROLLBACK = "rollback"
    RESTART = "restart"
    HEAL = "heal"
    UPGRADE = "upgrade"
    SETTLE = "settle"  # wait until all is as it should be, and look at everything


# How often each comes; the daemon's own trouble most, as nothing else on one machine survives that.
WEIGHTS: Final[Mapping[Kind, int]] = {
    Kind.KILL_DAEMON: 14,
    Kind.KILL_WORKER: 9,
    Kind.KILL_WEB: 9,
    Kind.KILL_COMPANION: 8,
    Kind.KILL_SINGLETON: 7,
    Kind.KILL_SERVICE: 5,
    Kind.DEPLOY: 12,
    Kind.DEPLOY_FAILING: 5,
    Kind.DEPLOY_CUT: 9,
    Kind.ROLLBACK: 6,
    Kind.RESTART: 6,
    Kind.HEAL: 3,
    Kind.UPGRADE: 8,
}
# Short pauses put an action into the middle of what the one before has set off, long ones let it end.
SHORT_PAUSE_SECONDS: Final = (0.0, 0.4)
LONG_PAUSE_SECONDS: Final = (0.5, 3.0)
SHORT_SHARE: Final = 0.45
ACTIONS_BETWEEN_SETTLING: Final = (5, 9)


@dataclass(frozen=True, slots=True)
class Action:
    """``pause_seconds`` after the one before; ``roll`` (0 to 1) chooses among what is there at that moment."""

    number: int
    pause_seconds: float
    kind: Kind
    roll: float

    def choose(self, number: int) -> int:
        """An index below ``number``."""
        return min(int(self.roll * number), number - 1)

    def other_roll(self) -> float:
        """A second number, for a second choice."""
        return self.roll * 1000 % 1


class Plan:
    """The endless row of actions of one seed; the first ones are the same however long the run is.

    ``without`` leaves kinds out, to find out which of them a failure needs.
    """

    def __init__(self, seed: int, without: Collection[Kind] = ()) -> None:
        self._without = without
        self._chance = random.Random(seed)
        self._number = 0
        self._until_settling = self._chance.randint(*ACTIONS_BETWEEN_SETTLING)
        self._bag: list[Kind] = []

    def next(self) -> Action:
        chance = self._chance
        self._number += 1
        pause = chance.uniform(*(SHORT_PAUSE_SECONDS if chance.random() < SHORT_SHARE else LONG_PAUSE_SECONDS))
        roll = chance.random()
        if self._until_settling == 0:
            self._until_settling = chance.randint(*ACTIONS_BETWEEN_SETTLING)
            return Action(self._number, round(pause, 3), Kind.SETTLE, roll)
        self._until_settling -= 1
        return Action(self._number, round(pause, 3), self._draw(), roll)

    def _draw(self) -> Kind:
        """From a shuffled bag of kinds by their weights, which begins with one of each: a short run does them all."""
        if not self._bag:
            kinds = {kind: weight for kind, weight in WEIGHTS.items() if kind not in self._without}
            once = list(kinds)
            self._chance.shuffle(once)
            rest = [kind for kind, weight in kinds.items() for _ in range(weight - 1)]
            self._chance.shuffle(rest)
            self._bag = [*rest, *once]
        return self._bag.pop()
