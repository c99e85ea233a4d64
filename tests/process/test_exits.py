"""How an end is told."""

from __future__ import annotations

from rollbridge.process.exits import ExitStatus, describe_exit


def test_each_kind_of_end_has_its_clause() -> None:
    assert str(ExitStatus(3, None)) == "exited with code 3"
    assert str(ExitStatus(None, 9)) == "was ended by SIGKILL"
    assert str(ExitStatus(None, 40)) == "was ended by signal 40"
    assert str(ExitStatus(None, None)) == "ended with an unknown exit code"
    assert ExitStatus(0, None).is_success
    assert not ExitStatus(None, None).is_success


def test_codes_of_the_shell_are_explained_only_behind_a_shell() -> None:
    assert "command not found" in describe_exit(ExitStatus(127, None), is_shell_command=True)
    assert "may not be executed" in describe_exit(ExitStatus(126, None), is_shell_command=True)
    assert describe_exit(ExitStatus(127, None), is_shell_command=False) == "exited with code 127"
