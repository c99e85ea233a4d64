"""Values of env_file and env_command reach the process, and nobody else."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.application import Application

FROM_FILE = "file-9d3b5c7e"
FROM_COMMAND = "command-41f0a2d8"


def write_secret(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def with_secrets(application: Application) -> tuple[Path, Path]:
    """The file with secrets, and the file that the command prints."""
    path = write_secret(application.root / "secrets.env", f"FILE_SECRET={FROM_FILE}\nBOTH={FROM_FILE}\n")
    store = write_secret(application.root / "store", f"COMMAND_SECRET={FROM_COMMAND}\nBOTH={FROM_COMMAND}\n")
    application.processes["web"].update(
        {
            "env_file": [str(path), "{{release_path}}/.env?"],
            "env_command": {"command": ["cat", str(store)], "timeout": "20s"},
            "env": {"OWN": "seen"},
        }
    )
    return path, store


def assert_untold(application: Application) -> None:
    """Neither commands nor files of the daemon hold a value."""
    commands = [["status"], ["status", "--json"], ["config"], ["config", "--json"], ["events", "--json"], ["events"]]
    for command in [*commands, ["validate"], ["logs"]]:
        application.run(*command, expect=None)
    told = [command.stdout + command.stderr for command in application.commands]  # the daemon's log among them
    told += [path.read_text(errors="replace") for path in application.runtime_dir.rglob("*") if path.is_file()]
    assert any("secrets.env" in text for text in told)
    assert any('"format"' in text for text in told), "the state file was not looked at"
    for text in told:
        assert FROM_FILE not in text
        assert FROM_COMMAND not in text


def test_a_secret_reaches_the_process_and_no_output_of_ours(application: Application) -> None:
    with_secrets(application)
    application.release("v1")
    application.start("v1")
    found = json.loads(application.get("/env").body)
    assert found["FILE_SECRET"] == FROM_FILE
    assert found["COMMAND_SECRET"] == FROM_COMMAND
    assert found["BOTH"] == FROM_COMMAND
    assert found["OWN"] == "seen"
    application.release("v2")
    application.deploy("v2")
    assert_untold(application)


def test_a_deploy_that_fails_for_its_secrets_says_why_and_not_what_they_are(application: Application) -> None:
    path, store = with_secrets(application)
    application.release("v1")
    application.release("v2")
    application.start("v1")

    def failure() -> str:
        return " ".join(application.deploy("v2", expect=1).stderr.split())

    write_secret(path, f"A=1\n{FROM_FILE}\n")
    assert f"env_file {path}: line 2 is not NAME=value" in failure()
    path.chmod(0o666)
    assert "may be written by others (mode 0666)" in failure()
    write_secret(path, f"A={FROM_FILE}")
    write_secret(store, FROM_COMMAND)
    assert "what env_command printed: line 1 is not NAME=value" in failure()
    assert application.serving()[0] == "v1"
    assert_untold(application)
