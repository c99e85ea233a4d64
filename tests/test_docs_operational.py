"""What docs/ quotes of the code is still in the code, and what it shows to copy is accepted."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from rollbridge.config.load import load_config
from rollbridge.daemon.commands import COMMANDS
from rollbridge.proxy.messages import Counts, Hello, Report, Retire, Route, Settings, Shutdown, Welcome, decode, encode
from tests.support.application import Application
from tests.support.waiting import wait_until

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [DOCS / f"{name}.md" for name in ("README", "architecture", "nginx", "systemd", "troubleshooting", "workers")]
WIDTH = 100


def read(page: str) -> str:
    return (DOCS / f"{page}.md").read_text()


def prose(text: str) -> Iterator[str]:
    """Lines that are neither code nor a table, which cannot be wrapped."""
    is_code = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code and not line.startswith("|"):
            yield line


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)


def section(text: str, heading: str) -> str:
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Cells of every table row, headings left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    bodies = [line for line, after in zip(lines, [*lines[1:], ""], strict=True) if not after.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in bodies if not line.startswith("|---")]


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_fit_100_columns(page: Path) -> None:
    assert [line for line in prose(page.read_text()) if len(line) > WIDTH] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            broken.append(target)
        elif fragment:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            if fragment not in map(anchor, headings):
                broken.append(target)
    assert broken == []


# --- messages


@cache
def code_texts() -> str:
    """Every string of the code; what is filled in at run time ends a piece."""
    pieces: list[str] = []
    for path in (ROOT / "rollbridge").rglob("*.py"):
        inside: set[int] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                inside.update(id(part) for part in node.values)
                pieces.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                pieces.append(node.value)
    return "\0".join(pieces)


# What differs from one time to the next, in the quotations of the page; and where one message quotes another.
VARIABLE = re.compile(r"…|: |\bN\b|/ping|127\.0\.0\.1|\bweb\.0\b|\b\d+\b")
OF_THE_SYSTEM = {"connection refused", "cannot assign requested address"}


def quotations() -> list[str]:
    text = read("troubleshooting")
    cells = [row[0] for row in rows(text.partition("## Disk and memory")[0])]
    quoted = [quotation for cell in cells for quotation in re.findall(r"`([^`]+)`", cell)]
    # Options, file names and the words of status are no messages.
    return [quotation for quotation in quoted if quotation.count(" ") >= 2]


def test_every_message_of_troubleshooting_is_one_of_the_code() -> None:
    missing = []
    quoted = quotations()
    assert len(quoted) > 60
    for quotation in quoted:
        pieces = [piece.strip(" .,:;()'\"/") for piece in VARIABLE.split(quotation)]
        told = [piece for piece in pieces if len(piece) > 5 and piece not in OF_THE_SYSTEM]
        assert told, quotation
        missing += [(quotation, piece) for piece in told if piece not in code_texts()]
    assert missing == [], "\n".join(map(str, missing))


def test_every_event_of_troubleshooting_is_one_of_the_code() -> None:
    text = read("troubleshooting")
    names = [name for row in rows(section(text, "What the events mean")) for name in re.findall(r"`([^`]+)`", row[0])]
    names += re.findall(r"[Ee]vent `([^`…]+)`", text)
    assert len(names) > 45
    texts = set(code_texts().split("\0"))
    known = texts | {f"worker: {text}" for text in texts} | {f"{command} requested" for command in COMMANDS}
    assert [name for name in names if name not in known] == []


# --- what is shown to copy

WEB = """
[processes.web]
policy = "proxied"
command = "app --port {{port}}"
port = "18182-18299"
"""
BROKER = """
[processes.broker]
policy = "service"
command = "redis-server"
port = 7331
"""


def as_config(block: str) -> str:
    """The whole file that a block of settings could stand in; settings without a section are a worker's."""
    needed = WEB + (BROKER if "ports.broker" in block else "")
    if block.startswith(("application", "[")):
        return block + needed
    command = "" if block.startswith("command") else 'command = "app"\n'
    return f"{needed}[processes.worker]\n{command}{block}"


@pytest.mark.parametrize("page", ["nginx", "systemd", "workers"])
def test_settings_that_are_shown_are_accepted(page: str, tmp_path: Path) -> None:
    found = blocks(read(page), "toml")
    assert found
    for number, block in enumerate(found):
        config = tmp_path / f"{number}.toml"
        config.write_text(as_config(block))
        load_config(str(config), {})


# --- architecture.md


def test_files_that_architecture_names_exist() -> None:
    text = read("architecture")
    rooms = {path.name for path in (ROOT / "rollbridge").iterdir() if path.is_dir() and path.name != "__pycache__"}
    named = {name.removeprefix("rollbridge/") for name in re.findall(r"`([a-z_/]+/[a-z_0-9]+\.py)", text)}
    assert len(named) > 40
    assert [name for name in sorted(named) if not (ROOT / "rollbridge" / name).exists()] == []
    # In tables a file without a room is in that of the one before it.
    for cell in re.findall(r"\| (`[a-z]+/[a-z_]+\.py`[^|]*)", text):
        room = ""
        for name in re.findall(r"`([a-z_/]+\.py)", cell):
            room = name.partition("/")[0] if "/" in name else room
            assert (ROOT / "rollbridge" / room / name.rpartition("/")[2]).exists(), name
    assert {name for name in rooms if f"`rollbridge/{name}/`" not in text} <= {"takeover"}


def test_the_worker_link_is_told_whole() -> None:
    told = {row[0]: row for row in rows(section(read("architecture"), "The worker link"))}
    messages = [Hello(), Settings(), Route(1, None), Retire(), Shutdown(), Report("x")]
    messages += [Counts(), Welcome(1, 1, 0, 0, Counts(), "0")]
    for message in messages:
        assert decode(encode(message)) == message
        name = type(message).__name__.lower()
        (cell,) = [cell for cell in told if cell.startswith(f"`{name}`")]
        if name != "settings":
            assert set(re.findall(r"`(\w+)`", cell)) == {name, *type(message).__dataclass_fields__}


def test_the_control_protocol_is_told_whole() -> None:
    told = {name for row in rows(section(read("architecture"), "The control protocol")) for name in row[:1]}
    assert told == {f"`{command}`" for command in COMMANDS}


def test_the_state_file_and_the_runtime_directory_are_told_whole(application: Application) -> None:
    text = read("architecture")
    application.processes["clock"] = application.worker("singleton")
    application.release("v1")
    application.write_config()
    application.run("ensure-daemon")
    application.deploy("v1")
    wait_until(
        lambda: json.loads((application.runtime_dir / "state.json").read_text())["singletons"],
        "the singleton is in the state file",
    )
    state = json.loads((application.runtime_dir / "state.json").read_text())
    part = section(text, "The state file")
    told = [name.removesuffix("[]") for row in rows(part) for name in re.findall(r"`([a-z_]+(?:\[\])?)`", row[0])]
    assert sorted(told) == sorted(state)
    release = next(row for row in rows(part) if row[0] == "`releases[]`")
    assert sorted(name.removesuffix("[]") for name in re.findall(r"`([a-z_]+(?:\[\])?)`", release[1])) == sorted(
        state["releases"][0]
    )
    process = part.partition("A process:")[2].partition("Times of releases")[0]
    listed = set(re.findall(r"`([a-z_]+)`", process)) - {"inode", "offset", "punched"}
    assert listed == set(state["singletons"][0])
    assert set(state["singletons"][0]["output"]["stdout"]) == {"inode", "offset", "punched"}

    patterns = [
        re.escape(name.removeprefix("<runtime_dir>/")).replace("<id>", ".+").replace("<n>", r"\d+")
        for row in rows(section(text, "The files at run time"))
        for name in re.findall(r"`(<runtime_dir>/[^`]+)`", row[0])
    ]
    patterns = [pattern.replace("<digest>", "[0-9a-f]+").replace("N", r"\d+") for pattern in patterns]

    def unknown() -> list[str]:
        files = [str(path.relative_to(application.runtime_dir)) for path in application.runtime_dir.rglob("*")]
        return sorted(name for name in files if not any(re.fullmatch(pattern, name) for pattern in patterns))

    # A state file that is just being written has another name for a moment.
    wait_until(lambda: unknown() == ["code", "output"], lambda: f"every file is told of; not {unknown()}")
