"""Completion as a person has it: the real shells, with the script that the command prints, on a terminal."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollbridge.cli.candidates import candidates
from rollbridge.cli.commands import COMMANDS
from rollbridge.cli.dispatch import parser_for
from rollbridge.cli.parser_shape import Kind, shape_of
from tests.cli.support import FakeDaemon, Run
from tests.support.waiting import PATIENCE_SECONDS, wait_until

STATUS = {
    "releases": [
        {
            "release_id": "r41",
            "processes": [{"id": "r41.web.0", "process_id": "web", "pid": None}],
        },
        {
            "release_id": "r42",
            "processes": [
                {"id": "r42.web.0", "process_id": "web", "pid": 11},
                {"id": "r42.worker.0", "process_id": "worker", "pid": 12},
            ],
        },
    ],
    "services": [{"id": "broker.0.0", "process_id": "broker", "pid": 13}],
    "singletons": [],
}
INSERT_ALL = b"\x1b*"  # the key that puts every candidate on the line
TO_THE_START = b"\x01"

BASH_RC = """\
PS1='$ '
bind 'set enable-bracketed-paste off'
eval "$(rollbridge completion bash)"
"""
ZSH_RC = """\
PS1='$ '
zstyle ':completion:all-matches::::' completer _all_matches _complete
zstyle ':completion:all-matches:*' insert yes
autoload -Uz compinit && compinit -u -D
bindkey -e
zle -C all-matches complete-word _generic
bindkey '^[*' all-matches
unsetopt zle_bracketed_paste 2>/dev/null
eval "$(rollbridge completion zsh)"
"""


class Shell:
    """A shell in a directory where `rollbridge` is a command."""

    def __init__(self, name: str, directory: Path) -> None:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is not installed")
        self.name, self.path, self.directory = name, path, directory
        programs = directory / "programs"
        programs.mkdir()
        for program in ("rollbridge", "rollbridge.pyz"):
            wrapper = programs / program
            wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m rollbridge "$@"\n')
            wrapper.chmod(0o755)
        self.environ = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(directory),
            "ZDOTDIR": str(directory),
            "INPUTRC": "/dev/null",
            "TERM": "dumb",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "LC_ALL": "C.UTF-8",
        }

    def complete(self, line: str) -> list[str]:
        """Return the words that come to stand for the last one of ``line``."""
        if self.name == "fish":
            return self._complete_in_fish(line)
        rc = self.directory / (".zshrc" if self.name == "zsh" else ".bashrc")
        rc.write_text(ZSH_RC if self.name == "zsh" else BASH_RC)
        options = ["-i"] if self.name == "zsh" else ["--noprofile", "--rcfile", str(rc), "-i"]
        output = self._type(
            options, line.encode() + INSERT_ALL + b" THE-END" + TO_THE_START + b"printf '<%s>\\n' THE-START \n"
        )
        shown = re.findall(r"<([^>\r\n]*)>\r?\n", output.partition("<THE-START>")[2])
        before = line.split()[: len(line.split()) - (not line.endswith(" "))]
        assert shown[: len(before)] == before, output
        return [word.rstrip("/") for word in shown[len(before) : -1]]

    def _complete_in_fish(self, line: str) -> list[str]:
        script = f"rollbridge completion fish | source; complete -C '{line}'"
        result = subprocess.run(
            [self.path, "--no-config", "-c", script],
            env=self.environ,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.stderr == ""
        return [one.partition("\t")[0].rstrip("/") for one in result.stdout.splitlines()]

    def _type(self, options: list[str], keys: bytes) -> str:
        """Type ``keys`` at the shell's prompt; return all that it shows until it has run the line."""
        ours, its = os.openpty()
        shell = subprocess.Popen(
            [self.path, *options],
            stdin=its,
            stdout=its,
            stderr=its,
            env=self.environ,
            cwd=self.directory,
            start_new_session=True,
        )
        os.close(its)
        os.set_blocking(ours, False)
        seen = bytearray()

        def shows(text: bytes) -> bool:
            try:
                seen.extend(os.read(ours, 65536))
            except BlockingIOError:
                return False
            return text in seen

        try:
            wait_until(lambda: shows(b"$ "), lambda: f"no prompt: {seen!r}", PATIENCE_SECONDS)
            os.write(ours, keys)
            wait_until(lambda: shows(b"<THE-END>"), lambda: f"the line was not run: {seen!r}", PATIENCE_SECONDS)
        finally:
            os.kill(shell.pid, signal.SIGKILL)
            shell.wait()
            os.close(ours)
        return seen.decode()


@pytest.fixture(params=["bash", "zsh", "fish"])
def shell(request: pytest.FixtureRequest, tmp_path: Path, config: Path) -> Iterator[Shell]:
    yield Shell(request.param, tmp_path)


def test_a_shell_completes_commands(shell: Shell) -> None:
    assert shell.complete("rollbridge re") == ["recover", "reload", "restart"]
    assert shell.complete("rollbridge -c rollbridge.toml valid") == ["validate"]
    assert shell.complete("programs/rollbridge.pyz rollb") == ["rollback"]
    assert shell.complete("rollbridge help completi") == ["completion"]


def test_a_shell_completes_the_options_of_the_command(shell: Shell) -> None:
    assert shell.complete("rollbridge deploy --daemon-") == [
        "--daemon-log-path",
        "--daemon-pid-path",
        "--daemon-start-timeout",
    ]
    assert shell.complete("rollbridge --json rollback --rele") == ["--release-id"]


def test_a_shell_completes_choices_and_arguments(shell: Shell) -> None:
    assert shell.complete("rollbridge restart --policy s") == ["service", "singleton"]
    assert sorted(shell.complete("rollbridge completion ")) == ["bash", "fish", "zsh"]


def test_a_shell_completes_files_and_directories(shell: Shell) -> None:
    (shell.directory / "releases" / "r1").mkdir(parents=True)
    (shell.directory / "releases" / "r2").mkdir()
    (shell.directory / "releases" / "read.me").write_text("")
    assert shell.complete("rollbridge deploy --release-path releases/r") == ["releases/r1", "releases/r2"]
    assert shell.complete("rollbridge -c releases/re") == ["releases/read.me"]
    assert shell.complete("rollbridge status --config rollbridge.t") == ["rollbridge.toml"]


def test_a_shell_completes_what_the_running_daemon_knows(shell: Shell, daemon: FakeDaemon) -> None:
    daemon.answers["status"] = {"result": STATUS}
    assert shell.complete("rollbridge restart --process w") == ["web", "worker"]
    assert shell.complete("rollbridge logs --process r42.") == ["r42.web.0", "r42.worker.0"]
    assert sorted(shell.complete("rollbridge rollback --release-id r")) == ["r41", "r42"]
    (shell.directory / "rollbridge.toml").rename(shell.directory / "other.toml")
    assert shell.complete("rollbridge -c other.toml restart --process b") == ["broker"]
    assert shell.complete("rollbridge restart --config=other.toml --process b") == ["broker"]


def test_a_shell_offers_nothing_and_says_nothing_when_no_daemon_answers(shell: Shell) -> None:
    assert shell.complete("rollbridge restart --process ") == []


def test_ids_are_listed_newest_release_first_and_replicas_only_while_they_run() -> None:
    assert candidates("release", STATUS) == ["r42", "r41"]
    assert candidates("process", STATUS) == ["broker", "web", "worker"]
    assert candidates("instance", STATUS)[3:] == ["broker.0.0", "r42.web.0", "r42.worker.0"]
    assert candidates("nonsense", STATUS) == []


def test_nothing_is_offered_that_a_shell_would_run() -> None:
    assert candidates("release", {"releases": [{"release_id": "$(reboot)"}, {"release_id": "a b"}]}) == []
    assert candidates("release", {"releases": [{"release_id": "-rf"}, "x"]}) == []


@pytest.mark.parametrize("text", ["", "[control", "unknown = 1"])
def test_a_config_that_cannot_be_read_is_no_word_on_the_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rollbridge.cli.main import main

    (tmp_path / "broken.toml").write_text(text)
    assert main(["_complete", "process", str(tmp_path / "broken.toml")]) == 0
    assert main(["_complete", "process", str(tmp_path / "missing.toml")]) == 0
    assert main(["_complete"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_shape_has_every_option_of_every_command_and_says_what_it_takes() -> None:
    shape = shape_of(COMMANDS)
    assert [command.name for command in shape.commands] == [*COMMANDS, "help"]
    for command in shape.commands[:-1]:
        names = {name for option in command.options for name in option.names}
        assert set(parser_for(command.name, COMMANDS)[1].long_options) <= names
    deploy = next(command for command in shape.commands if command.name == "deploy")
    kinds = {option.names[-1]: option.value.kind for option in deploy.options if option.value}
    assert kinds["--release-path"] is Kind.DIRECTORY
    assert kinds["--config"] is Kind.FILE
    assert kinds["--daemon-start-timeout"] is Kind.FREE


def test_the_script_is_a_field_of_the_json(run: Run) -> None:
    answer = run("completion", "fish", "--json").json
    assert answer["status"] == "success"
    assert answer["script"] == run("completion", "fish").stdout
