"""Whether a living process is the one on record: what its identity alone does not prove.

Pid, start time and boot id make a process unique, but they stand in a file. Two more things are true of every process
that was started by us, and stay true: it leads a session, which nobody can leave who leads it (setsid(2)), and no
other start's mark stands in its environment.
"""

from __future__ import annotations

from collections.abc import Mapping

from rollbridge.process.identity import ProcessIdentity, is_alive, read_stat_fields
from rollbridge.process.records import decode_record
from rollbridge.process.table import ProcessTable, read_environment_value
from rollbridge.process.tree import INSTANCE_VARIABLE


def is_ours(pid: int, session: int, mark: str | None, token: str | None) -> bool:
    """Whether what is known of ``pid`` speaks for the start with ``token``; ``mark`` None: none, or not readable."""
    return pid == session and (mark is None or token is None or mark == token)


def is_recognised(identity: ProcessIdentity, token: str | None) -> bool:
    """Whether ``identity`` lives, and is a process that was started with ``token`` (None: not known)."""
    if not is_alive(identity):
        return False
    fields = read_stat_fields(identity.pid)
    mark = read_environment_value(identity.pid, INSTANCE_VARIABLE)
    return bool(fields) and fields is not None and is_ours(identity.pid, int(fields[3]), mark, token)


def is_stranger(table: ProcessTable, identity: ProcessIdentity, token: str | None) -> bool:
    """Whether ``identity`` lives in ``table``, and is none that was started with ``token``."""
    row = table.rows.get(identity.pid)
    if row is None or row.start_ticks != identity.start_ticks or table.boot_id != identity.boot_id:
        return False
    return not is_ours(row.pid, row.session, table.mark(row.pid, INSTANCE_VARIABLE), token)


def is_living(record: Mapping[str, object]) -> bool:
    """Whether the process lives that ``record`` (of the state file) is about; False for one that makes no sense."""
    try:
        found = decode_record({key: value for key, value in record.items() if value is not None})
    except ValueError:
        return False
    return found.identity is not None and is_recognised(found.identity, found.token)
