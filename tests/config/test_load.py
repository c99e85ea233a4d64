from __future__ import annotations

import os
from pathlib import Path

import pytest

from rollbridge.config.issues import ConfigError, ConfigIssue
from rollbridge.config.load import load_client_settings, load_config
from tests.config.reading import WEB


def written(directory: Path, text: str | bytes) -> str:
    path = directory / "rollbridge.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def issues_at(path: str) -> tuple[ConfigIssue, ...]:
    """Return what both readers say about a file that cannot be read."""
    with pytest.raises(ConfigError) as whole:
        load_config(path, {})
    with pytest.raises(ConfigError) as client:
        load_client_settings(path, {})
    assert whole.value.issues == client.value.issues
    assert whole.value.source_path == os.path.abspath(path)  # noqa: PTH100 - as the code under test
    return whole.value.issues


def test_config_is_loaded_with_the_absolute_path_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop").mkdir()
    written(tmp_path / "shop", WEB)
    monkeypatch.chdir(tmp_path / "shop")
    config = load_config("rollbridge.toml", {})
    assert config.source_path == str(tmp_path / "shop" / "rollbridge.toml")
    assert config.application == "shop"


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing.toml", "there is no such file"), (".", "the path is a directory"), ("x" * 300, "cannot be read"),
     ("nul\0", "cannot be read"), ("file/x", "cannot be read"), ("loop", "cannot be read")],
)  # fmt: skip
def test_path_that_cannot_be_read_is_told(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (issue,) = issues_at(f"{tmp_path}/{name}")
    assert message in issue.message
    assert "-c PATH" in issue.fix


def test_fifo_is_told_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert issues_at(f"{tmp_path}/fifo")[0].message == "the path is not a regular file"


def test_device_is_told() -> None:
    assert issues_at("/dev/zero")[0].message == "the path is not a regular file"


@pytest.mark.skipif(os.getuid() == 0, reason="root may read every file")
def test_file_of_another_user_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, WEB)
    Path(path).chmod(0)
    assert "may not be read" in issues_at(path)[0].message


def test_file_of_ten_megabytes_is_refused(tmp_path: Path) -> None:
    assert issues_at(written(tmp_path, b"#" * 10_000_000))[0].message == "the file is larger than 1 MiB"


def test_bytes_that_are_not_utf_8_are_told(tmp_path: Path) -> None:
    assert issues_at(written(tmp_path, b"\xff"))[0].line == 1


def test_client_settings_are_those_of_the_config(tmp_path: Path) -> None:
    path = written(tmp_path, f'application = "shop"\nstate_path = "s"\n[control]\nmode = "660"\nowner = 5\n{WEB}')
    config, settings = load_config(path, {}), load_client_settings(path, {})
    assert settings.application == config.application
    assert settings.runtime_dir == config.runtime_dir
    assert settings.state_path == config.state_path
    assert settings.control == config.control


@pytest.mark.parametrize(
    "broken",
    [
        "[proxy]\nport = 0\nbogus = 1\n",
        '[processes.web]\ncommand = "{{nope}}"\n',
        "processes = 1\n",
        "[proxy]\nport = = 1\n",
        "[processes.web]\nx = [\n",
        '[[processes]]\nx = """\n',
        "[proxy]\nport = 1\nport = 2\n",
        f"[proxy]\na{'.a' * 50} = 1\n",
    ],
)
def test_client_settings_are_read_whatever_is_wrong_in_other_sections(tmp_path: Path, broken: str) -> None:
    path = written(tmp_path, f'application = "shop"\ncontrol.path = "/tmp/x.sock"\n{broken}')
    settings = load_client_settings(path, {})
    assert (settings.application, settings.control.path) == ("shop", "/tmp/x.sock")
    with pytest.raises(ConfigError):
        load_config(path, {})


def test_control_section_after_a_broken_one_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, 'application = "shop"\n[proxy]\nx = y\n[control]\npath = "/tmp/x.sock"\n')
    assert load_client_settings(path, {}).control.path == "/tmp/x.sock"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("application = shop\n[proxy]\nx = 1\n", 1),
        ('application = "shop"\n[control]\npath = x\n[proxy]\n', 3),
        ('application = "shop"\n[control\npath = "x"\n', 2),
        ('application = "shop"\n[proxy]\nx = 1\n[control\npath = "x"\n', 4),
        ('application = "shop"\n[proxy]\nx = y\n[control\npath = "x"\n', 3),
        ('application = "shop"\n[unknown]\nx = y\n', 3),
    ],
)
def test_client_does_not_guess_when_the_way_to_the_daemon_may_be_broken(tmp_path: Path, text: str, line: int) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_client_settings(path, {})
    assert caught.value.issues[0].line == line


def test_client_settings_with_problems_of_their_own_are_told(tmp_path: Path) -> None:
    path = written(tmp_path, 'application = "a/b"\n[control]\nmode = 660\n[proxy]\nport = 0\n')
    with pytest.raises(ConfigError) as caught:
        load_client_settings(path, {})
    assert [issue.where for issue in caught.value.issues] == ["application", "control.mode"]


def test_reading_for_a_client_does_not_load_the_model(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = written(tmp_path, 'application = "shop"\n' + WEB)
    code = (
        "import sys; from rollbridge.config.load import load_client_settings; before = set(sys.modules);"
        f"load_client_settings({path!r}, {{}});"
        "print(sorted({'rollbridge.config.model', 'rollbridge.config.lines', 'rollbridge.config.units', 'dataclasses',"
        " 'difflib', 'signal', 'asyncio', 'subprocess'} & (set(sys.modules) - {'signal'})))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
