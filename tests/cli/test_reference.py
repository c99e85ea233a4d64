from __future__ import annotations

from pathlib import Path

import pytest

from rollbridge.cli.commands import COMMANDS
from rollbridge.cli.dispatch import parser_for

REFERENCE = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_has_a_section_for_every_command_with_all_its_options(name: str) -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    _, found, rest = text.partition(f"\n## {name}\n")
    assert found, f"docs/cli.md has no section for {name}"
    section = rest.partition("\n## ")[0]
    _, parser = parser_for(name, COMMANDS)
    missing = [
        option
        for option in parser.long_options
        if option not in section and option not in ("--help", "--config", "--json")
    ]
    assert not missing


def test_the_reference_describes_no_command_that_is_not_there() -> None:
    headings = [line[3:] for line in REFERENCE.read_text(encoding="utf-8").splitlines() if line.startswith("## ")]
    assert set(headings) - set(COMMANDS) == {"Shared by all commands", "The control socket"}
