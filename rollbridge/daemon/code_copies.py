"""Private copies of earlier versions of this file: deleted once nothing runs from them."""

from __future__ import annotations

import psutil

from rollbridge.runtime import UnsafeDirectory, prune_copies


def copies_in_use(directory: str) -> set[str]:
    """Return the paths below ``directory`` that some process has in its command line: it runs from them."""
    used: set[str] = set()
    for process in psutil.process_iter(["cmdline"]):
        # None for a process whose command line is not ours to read.
        used.update(word for word in process.info["cmdline"] or () if word.startswith(f"{directory}/"))
    return used


def delete_unused_copies(runtime_dir: str) -> list[str]:
    """Delete the copies in ``runtime_dir`` that no process runs from; return their names."""
    try:
        return prune_copies(runtime_dir, copies_in_use(runtime_dir))
    except (UnsafeDirectory, OSError):
        return []
