from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from rollbridge.cli.main import main

GOOD = '[processes.web]\npolicy = "proxied"\ncommand = "serve"\nport = "18182-18299"\n'
BAD = f"[proxy]\nport = 80800\ndrain_timeout = 30\n{GOOD}[legacy_takeover]\nscreen = []\n"


def written(directory: Path, text: str) -> str:
    path = directory / "shop" / "rollbridge.toml"
    path.parent.mkdir()
    path.write_text(text)
    return str(path)


def test_valid_config_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, GOOD)
    assert main(["validate", "-c", path]) == 0
    assert capsys.readouterr().out == f"{path} is valid: application shop, 1 process, proxy on 127.0.0.1:8182\n"


def test_problems_are_told_as_blocks_with_line_and_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, BAD)
    monkeypatch.chdir(tmp_path / "shop")
    assert main(["validate"]) == 1
    assert capsys.readouterr().out == (
        "rollbridge.toml:2: proxy.port: 80800 is above 65535\n"
        "  fix: choose a number from 1 to 65535\n"
        "rollbridge.toml:3: proxy.drain_timeout: duration 30 has no unit\n"
        '  fix: write "30s" for seconds, or another unit: "250ms", "5m", "1h30m", "7d"\n'
        'rollbridge.toml:9: legacy_takeover.screen: there is no setting "screen" here\n'
        "  fix: did you mean screens?\n"
        "3 problems in rollbridge.toml\n"
    )


def test_problems_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, BAD)
    assert main(["validate", "-c", path, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"status", "path", "problems"}
    assert (answer["status"], answer["path"]) == ("error", path)
    assert answer["problems"][0] == {
        "where": "proxy.port",
        "line": 2,
        "message": "80800 is above 65535",
        "fix": "choose a number from 1 to 65535",
    }
    Path(path).write_text(GOOD)
    assert main(["validate", "-c", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"status": "success", "path": path, "problems": []}


def test_text_fits_eighty_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, GOOD + 'zzz = 1\nenv = { A = "{{zzzzzzz}}" }\n')
    monkeypatch.chdir(tmp_path / "shop")
    assert main(["validate"]) == 1
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines())


def test_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "-c", f"{tmp_path}/no.toml"]) == 1
    assert "there is no such file" in " ".join(capsys.readouterr().out.split())


def test_effective_config_is_a_config_that_means_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, GOOD)
    assert main(["config", "-c", path]) == 0
    shown = capsys.readouterr().out
    again = tmp_path / "again.toml"
    again.write_text(shown)
    assert main(["validate", "-c", str(again)]) == 0
    capsys.readouterr()
    assert main(["config", "-c", str(again)]) == 0
    assert capsys.readouterr().out == shown
    assert tomllib.loads(shown)["proxy"]["port"] == 8182


def test_effective_config_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, GOOD)
    assert main(["config", "-c", path, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["status"], answer["path"]) == ("success", path)
    assert answer["config"]["processes"]["web"]["port"] == {"from": 18182, "to": 18299}


def test_broken_config_has_no_effective_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, BAD)
    assert main(["config", "-c", path, "--json"]) == 2
    captured = capsys.readouterr()
    assert f"rollbridge: {path} has 3 problems:" in captured.err
    answer = json.loads(captured.out)
    assert answer["exit_code"] == 2
    assert [problem["where"] for problem in answer["problems"]] == [
        "proxy.port", "proxy.drain_timeout", "legacy_takeover.screen"
    ]  # fmt: skip
