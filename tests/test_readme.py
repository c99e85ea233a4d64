"""What the README tells a newcomer to do, done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest

from tests.support.ports import free_block
from tests.support.processes import MARK_VARIABLE, marked

README: Final = (Path(__file__).parent.parent / "README.md").read_text()
PORTS: Final = 20
# A minimal machine has no curl, and the README's reader may have any python3 on the path.
CURL: Final = """
curl() { python3 -I -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())' "$1"; }
"""


def commands(name: str) -> list[str]:
    block = re.search(rf"^<!-- {name} command -->\n```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert block is not None
    return block[1].splitlines()


def test_there_are_two_commands_of_one_line_each() -> None:
    assert commands("demo") == ["python3 build_zipapp.py && dist/rollbridge.pyz demo"]
    (test,) = commands("test")
    assert os.access(Path(__file__).parent.parent / test, os.X_OK)


def test_the_introduction_has_five_lines() -> None:
    introduction = README.split("\n## ")[0].split("\n\n")[1]
    assert len(introduction.splitlines()) == 5


def test_every_file_the_readme_points_to_is_there() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (Path(__file__).parent.parent / target).exists(), target


def test_the_five_minutes_with_an_application_work_as_written(pyz: Path) -> None:
    chapter = README.split("\n## ")[2]
    assert chapter.startswith("Your application, in five minutes")
    script = ["set -e", CURL]
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", chapter, re.MULTILINE | re.DOTALL):
        script.append(f"cat > rollbridge.toml <<'END'\n{block}END" if language == "toml" else block)
    first = free_block(PORTS)
    text = "\n".join(script).replace("= 8182", f"= {first}").replace(":8182", f":{first}")
    text = re.sub(r"from = \d+, to = \d+", f"from = {first + 1}, to = {first + PORTS - 1}", text)
    with tempfile.TemporaryDirectory(prefix="rbt-") as directory:  # the control socket's name is the application's
        text = text.replace('application = "hello"', f'application = "{Path(directory).name}"')
        (Path(directory) / "dist").mkdir()
        (Path(directory) / "dist" / "rollbridge.pyz").symlink_to(pyz)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        result = subprocess.run(
            ["/bin/sh", "-c", text],
            cwd=directory,
            env={**os.environ, "PATH": path, MARK_VARIABLE: directory},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        try:
            assert result.returncode == 0, result.stderr
            assert "\none\n" in result.stdout
            assert "release v2 is active, it replaced v1" in result.stdout
            assert "release v1 is active, it replaced v2" in result.stdout
            assert marked(directory) == []
        finally:
            for process in marked(directory):
                os.kill(process.pid, 9)
                pytest.fail(f"left behind: {process}")
