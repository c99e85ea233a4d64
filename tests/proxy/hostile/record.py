"""Record what nginx and HAProxy make of every case: ``python -m tests.proxy.hostile.record``.

Both have to be installed. Writes verdicts.json, which stands in for them where the tests run without them.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Final

from tests.proxy.hostile import peers
from tests.proxy.hostile.cases import CASES, Case
from tests.proxy.hostile.stage import RecordingApplication, Verdict, play

VERDICTS: Final = Path(__file__).parent / "verdicts.json"


def fingerprint(case: Case) -> str:
    return hashlib.sha256(case.data).hexdigest()[:16]


def play_all(peer: str, directory: Path) -> dict[str, Verdict]:
    """The verdict of a peer that is installed on every case."""
    application = RecordingApplication()
    try:
        with peers.running(peer, directory, application.port) as port:
            return {case.name: play(port, application, [case.data], shuts=True) for case in CASES}
    finally:
        application.close()


def load(peer: str) -> dict[str, Verdict]:
    """The stored verdict on every case that has not changed since."""
    stored = json.loads(VERDICTS.read_text())["cases"]
    verdicts = {}
    for case in CASES:
        entry = stored.get(case.name)
        if entry is not None and entry["sent"] == fingerprint(case):
            requests = [(method, path, host, body.encode("latin-1")) for method, path, host, body in entry[peer][0]]
            verdicts[case.name] = Verdict(requests, entry[peer][1], entry[peer][2])
    return verdicts


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        verdicts = {peer: play_all(peer, Path(scratch) / peer) for peer in peers.NAMES}
    lines = []
    for case in CASES:
        entry: dict[str, object] = {"sent": fingerprint(case)}
        for peer in peers.NAMES:
            one = verdicts[peer][case.name]
            requests = [[*request[:3], request[3].decode("latin-1")] for request in one.requests]
            entry[peer] = [requests, one.leftover, one.statuses]
        lines.append(f"{json.dumps(case.name)}: {json.dumps(entry)}")
    versions = json.dumps([peers.version(peer) for peer in peers.NAMES])
    VERDICTS.write_text(f'{{"versions": {versions}, "cases": {{\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main()
