"""Which recorded processes live though no daemon manages them. Pure: over a state and a process table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rollbridge.daemon.recorded import Record, RecordedState, RecordedWorker
from rollbridge.process.identity import ProcessIdentity
from rollbridge.process.marked import find_marked
from rollbridge.process.recognition import is_stranger
from rollbridge.process.records import decode_record
from rollbridge.process.table import ProcessRow, ProcessTable
from rollbridge.process.tree import Instance, find_leader, find_members


@dataclass(frozen=True, slots=True)
class Suspect:
    """One start that a daemon wrote down; whether anything of it lives is to be found out."""

    id: str
    release_id: str
    instance: Instance
    is_worker: bool = False  # a proxy worker: it ignores every signal but SIGKILL

    def members(self, table: ProcessTable, own_pid: int, known: Mapping[int, int]) -> list[ProcessRow]:
        """Return what lives of its tree: leader, session, descendants, and what carries its mark."""
        return find_members(table, self.instance, daemon_pid=own_pid, known=known)


@dataclass(frozen=True, slots=True)
class Orphan:
    """A suspect of which something lives. ``pid`` is its leader's, or that of the oldest that is left."""

    suspect: Suspect
    pid: int
    age_seconds: float
    command: str
    pids: tuple[int, ...]

    def document(self) -> dict[str, object]:
        return {
            "id": self.suspect.id,
            "release_id": self.suspect.release_id or None,
            "pid": self.pid,
            "age_seconds": round(self.age_seconds, 1),
            "command": self.command,
            "pids": list(self.pids),
        }


def list_suspects(recorded: RecordedState, table: ProcessTable) -> list[Suspect]:
    """Return every start of ``recorded`` that may live in this boot; a record of the wrong shape is left out."""
    records: list[Record] = [record for release in recorded.releases for record in release.processes]
    records += [*recorded.services, *recorded.singletons, *recorded.orphans]
    found = [suspect for record in records if (suspect := _suspect(record, table)) is not None]
    workers = worker_suspects(recorded.workers, recorded.boot_id)
    return [*found, *(worker for worker in workers if not is_stranger(table, worker.instance.leader, None))]


def worker_suspects(workers: Iterable[RecordedWorker], boot_id: str) -> list[Suspect]:
    """Return the proxy workers as suspects."""
    return [
        Suspect(
            f"proxy worker {worker.index}",
            "",
            Instance(ProcessIdentity(worker.pid, worker.start_ticks, boot_id), "", is_adopted=False),
            is_worker=True,
        )
        for worker in workers
    ]


def _suspect(record: Record, table: ProcessTable) -> Suspect | None:
    try:
        found = decode_record({key: value for key, value in record.items() if value is not None})
    except ValueError:
        return None
    token = found.token or ""
    leader = found.identity
    if leader is not None and is_stranger(table, leader, found.token):
        leader = None
    if leader is None and token and found.boot_id == table.boot_id:
        leader = find_leader(table, token)  # a start that was written down and not completed
    if leader is None or leader.boot_id != table.boot_id:
        return None
    return Suspect(found.instance_id, found.release_id, Instance(leader, token, is_adopted=bool(token)))


def unrecorded_suspects(
    table: ProcessTable, known: Iterable[Suspect], output_of: Callable[[int], str], release_of: Callable[[int], str]
) -> list[Suspect]:
    """Return starts that no state tells of: the file was lost, or written before they began.

    ``output_of`` names the output file of this runtime directory that a pid writes to, ``release_of`` its release.
    """
    tokens = {suspect.instance.token for suspect in known}
    return [
        Suspect(
            f"{one.instance_id} (not recorded)",
            release_of(one.leader.pid),
            Instance(one.leader, one.token, is_adopted=True),
        )
        for one in find_marked(table, tokens, output_of)
    ]


def find_orphans(
    suspects: Iterable[Suspect],
    table: ProcessTable,
    *,
    own_pid: int,
    ticks_now: int,
    ticks_per_second: int,
    read_command: Callable[[int], str],
) -> list[Orphan]:
    """Return the suspects of which something lives, in their order."""
    orphans = []
    for suspect in suspects:
        members = suspect.members(table, own_pid, {})
        if members:
            first = members[0]
            age = max(ticks_now - first.start_ticks, 0) / ticks_per_second
            orphans.append(Orphan(suspect, first.pid, age, read_command(first.pid), tuple(row.pid for row in members)))
    return orphans
