"""The steps of a deploy, in their order, and how their progress is told.

Named in one place: what is reported, what is recorded, and what later slots in between two steps
all speak of these.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Progress = Mapping[str, object]


class Step(enum.Enum):
    """In the order in which a deploy takes them; ``UNDO`` only after a failure.

    A daemon that ends up to ``HEALTH`` leaves a deploy that the next one undoes, later one that it completes.
    """

    RELOAD = "reload"
    PORTS = "ports"
    START = "start"
    HEALTH = "health"
    SWITCH = "switch"
    CONFIRM = "confirm"  # written down: told of by nothing, since it takes no time
    SERVICES = "services"
    SINGLETONS = "singletons"
    RETIRE = "retire"
    DONE = "done"
    UNDO = "undo"


# Called when a step is done, with an empty text, and when a part of it is, with the part's name.
Passed = Callable[[Step, str], None]


def pass_by(step: Step, part: str) -> None:
    """Let the operation go on."""


@dataclass(slots=True)
class ProgressReport:
    """Tells one operation's progress to whoever listens; ``clock`` is monotonic seconds."""

    send: Callable[[Progress], None]
    clock: Callable[[], float]
    release_id: str = ""
    step: Step = Step.RELOAD
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def seconds(self) -> float:
        """Seconds since the operation began, to the millisecond."""
        return round(self.clock() - self.started, 3)

    def tell(self, step: Step, message: str, process: str | None = None, lines: list[str] | None = None) -> None:
        """Report ``message`` (one sentence for a person) as part of ``step``."""
        self.step = step
        report: dict[str, object] = {
            "phase": step.value,
            "message": message,
            "release_id": self.release_id,
            "seconds": self.seconds,
        }
        if process is not None:
            report["process"] = process
        if lines:
            report["lines"] = lines
        self.send(report)
