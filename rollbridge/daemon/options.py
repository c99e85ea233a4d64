"""What ``daemon`` was asked on its command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """The bootstrap of one daemon; everything None or False: start empty and wait for a deploy.

    ``boot_attestation`` (``sha256:`` and 64 hex digits) is recorded and shown by ``status`` as given,
    so that whoever started the daemon can tell that this very start is the one that answers.
    """

    release_path: str | None = None
    release_id: str | None = None
    revision: str | None = None
    boot_attestation: str | None = None
    resume: bool = False
    pid_path: str | None = None

    def arguments(self, config_path: str) -> list[str]:
        """Return the command line that says the same, for the code that this daemon goes on as."""
        given = {
            "--config": config_path,
            "--release-path": self.release_path,
            "--release-id": self.release_id,
            "--revision": self.revision,
            "--boot-attestation": self.boot_attestation,
            "--daemon-pid-path": self.pid_path,
        }
        words = [word for name, value in given.items() if value is not None for word in (name, value)]
        return ["daemon", *words, *(["--resume"] if self.resume else [])]
