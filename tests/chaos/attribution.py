"""Whose fault a failed request is: that of a kill of ours, exactly, or rollbridge's. Pure.

A process is named by its pid and start time (``who``).

A request may fail when the process that had it in its hands was killed: the proxy worker that held the client's
connection, or the web process that was answering. Everything else is a violation. Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

NO_ANSWER: Final = "closed the connection without an answer"
NOT_ACCEPTING: Final = "does not accept connections"
# Of the hold: the proxy's clock began at the request's arrival there, ours a moment earlier.
HOLD_TOLERANCE_SECONDS: Final = 0.25
# Between the moment when the new process listens and the next attempt of the proxy to connect (at most 0.5 s).
LISTEN_TOLERANCE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Kill:
    """One SIGKILL of ours: decided at ``at``; at ``gone_at`` the kernel had taken back all that the process held.

    ``ports``: of a proxy worker, the clients' ports of the connections that it held.
    """

    role: str
    who: str
    at: float
    gone_at: float
    ports: frozenset[int] = frozenset()
    release: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that did not get its right answer.

    ``status`` 0: the connection ended instead. ``who`` answered, as far as its head had come; empty: unknown.
    ``port`` is the client's, of a connection that was opened at ``connected_at``.
    """

    kind: str
    request_id: str
    reason: str
    status: int
    retry_after: str
    who: str
    port: int
    connected_at: float
    began_at: float
    ended_at: float

    def __str__(self) -> str:
        took = f"{self.began_at:.3f} to {self.ended_at:.3f}"
        return f"{self.kind} {self.request_id} (port {self.port}, by {self.who or 'unknown'}, {took}): {self.reason}"


@dataclass(frozen=True, slots=True)
class Known:
    """What else is known.

    ``kills`` of ours; ``begun_by``: per request the web processes that began to answer it; ``terminated_at``: when a
    process got SIGTERM; ``listened``: when a web process of a release began to listen; ``hold_seconds``: the setting.
    """

    kills: Sequence[Kill]
    begun_by: Mapping[str, Sequence[str]]
    terminated_at: Mapping[str, float]
    listened: Sequence[tuple[str, float]]
    hold_seconds: float


def blame(failure: Failure, known: Known) -> str | None:
    """Name the kill (or the retirement) that explains ``failure``; None: nothing does, it is a violation."""
    for kill in known.kills:
        if kill.role == "proxy worker" and _had_connection(kill, failure):
            return f"kill of proxy worker {kill.who}"
        if kill.role == "web" and _was_answering(kill, failure, known):
            return f"kill of web {kill.who}"
        if kill.role == "web" and _was_held_out(kill, failure, known):
            return f"kill of web {kill.who}: held for {known.hold_seconds:g} s, nobody listened"
    if failure.kind == "websocket" and failure.reason.startswith("closed by the app"):
        told_at = known.terminated_at.get(failure.who)
        if told_at is not None and told_at <= failure.ended_at:
            return f"retirement of web {failure.who}"
    return None


def _had_connection(kill: Kill, failure: Failure) -> bool:
    """The connection was in the worker's hands: opened before the kill, not over before it, and on its list."""
    is_cut = failure.status == 0 and not failure.reason.startswith(("connect:", "no byte", "closed by the app"))
    return (
        is_cut and failure.port in kill.ports and failure.connected_at <= kill.gone_at and failure.ended_at >= kill.at
    )


def _was_answering(kill: Kill, failure: Failure, known: Known) -> bool:
    """The killed process had it: it says so itself, or nobody ever began with it and it was on its way at the kill."""
    # Of a WebSocket all is one request, from its opening on.
    began_at = failure.connected_at if failure.kind == "websocket" else failure.began_at
    if not (began_at <= kill.gone_at and failure.ended_at >= kill.at):
        return False
    is_cut = failure.status == 0 and not failure.reason.startswith(("connect:", "no byte", "closed by the app"))
    if not (is_cut or (failure.status == 502 and NO_ANSWER in failure.reason)):
        return False
    if failure.who:
        return failure.who == kill.who
    begun = known.begun_by.get(failure.request_id, ())
    # Sent to the killed process, and still in the kernel's queue: the proxy says so with its 502, which a client that
    # is still sending may not get to read.
    return begun[-1] == kill.who if begun else failure.status == 502 or failure.reason.startswith("send:")


def _was_held_out(kill: Kill, failure: Failure, known: Known) -> bool:
    """Nobody listened while it was held, for as long as the setting says, and the answer says when to come again."""
    if failure.status != 502 or NOT_ACCEPTING not in failure.reason or not failure.retry_after.isdecimal():
        return False
    held_since = failure.ended_at - known.hold_seconds
    if failure.began_at > held_since + HOLD_TOLERANCE_SECONDS or kill.at > held_since + HOLD_TOLERANCE_SECONDS:
        return False
    last = failure.ended_at - LISTEN_TOLERANCE_SECONDS
    return not any(release == kill.release and kill.at <= at <= last for release, at in known.listened)


@dataclass(frozen=True, slots=True)
class Life:
    """One line of the application's record of itself."""

    event: str
    role: str
    who: str
    at: float
    release: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A command of ours, from its start to its end."""

    name: str
    began_at: float
    ended_at: float


def judge_command(span: Span, code: int, output: str, kills: Sequence[Kill], fails: bool) -> str:
    """Return what is wrong with a command's end; empty: nothing.

    It succeeds (or fails, where it ``fails`` for sure), unless a kill of ours fell into its time: then it may say 1 (it
    failed), 3 (the daemon is gone) or 4 (refused, by one that has just come back). A traceback is never an answer.
    """
    if "Traceback" in output:
        return f"{span.name} shows a traceback"
    if code == (1 if fails else 0):
        return ""
    is_disturbed = any(span.began_at <= kill.gone_at and kill.at <= span.ended_at for kill in kills)
    if is_disturbed and code in (1, 3, 4):
        return ""
    return f"{span.name} ended with {code}{'' if is_disturbed else ', and nothing had been killed meanwhile'}"


def judge_lives(lives: Sequence[Life], kills: Sequence[Kill], spans: Sequence[Span]) -> list[str]:
    """Return what is wrong with the ends of the application's processes, all of which have ended.

    Nobody ends but by a kill of ours, by SIGTERM, or as its release says; a service gets SIGTERM only from a restart
    or a shutdown, or from a deploy that started it and failed; and there are never two of a kind that is single.
    """
    violations = [
        f"two at once: {life.role} {life.who} found the lock held by {life.detail}"
        for life in lives
        if life.event == "double"
    ]
    killed = {(kill.who, kill.role) for kill in kills}
    told = {life.who for life in lives if life.event in ("term", "end")}
    for life in lives:
        if life.event == "start" and life.who not in told and (life.who, life.role) not in killed:
            violations.append(f"{life.role} {life.who} of {life.release} ended, and nobody of us killed it")
        if (
            life.event == "term"
            and life.role == "broker"
            and not any(
                span.name
                in ("restart", "shutdown", "deploy", "rollback", "failing deploy", "deploy cut off", "recovery")
                and span.began_at <= life.at <= span.ended_at
                for span in spans
            )
        ):
            violations.append(f"the service {life.who} got SIGTERM at {life.at:.3f}, outside of any restart")
    return violations
