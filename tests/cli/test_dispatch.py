from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rollbridge.cli.commands import COMMANDS, Command
from rollbridge.cli.dispatch import command_name, parser_for, run_command
from rollbridge.cli.main import main
from tests.cli.support import Run

USES_OF_BASHFUL_IMPORTS = ("asyncio", "psutil", "ctypes", "subprocess", "dataclasses", "tomli_w", "ipaddress")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    output = capsys.readouterr()
    return code, output.out, output.err


def test_every_command_has_a_family_that_adds_it_and_help_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        _, parser = parser_for(name, COMMANDS)
        text = parser.format_help()
        assert max(len(line) for line in text.splitlines()) <= 80, name
        assert "\nexample" in text, name
        for option in parser.long_options:
            assert option in text
    code, out, _ = said(capsys, "--help")
    assert code == 0
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert max(len(line) for line in out.splitlines()) <= 80


def test_a_family_adds_no_command_that_help_does_not_list() -> None:
    from rollbridge.cli.parser import new_parser

    for family in {command.family for command in COMMANDS.values()}:
        _, subparsers = new_parser()
        importlib.import_module(f"rollbridge.cli.{family}").add_parser(subparsers)
        assert set(subparsers.choices) == {n for n, c in COMMANDS.items() if c.family == family}


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "--version")
    assert code == 0 and out.startswith("rollbridge ") and out.count("\n") == 1 and not err
    assert said(capsys, "--json", "--version") == (code, out, err)


def test_help_is_a_word_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "help") == said(capsys, "--help") == said(capsys, "-h")
    code, out, _ = said(capsys, "help", "deploy")
    assert code == 0 and "--release-path" in out


@pytest.mark.parametrize("line", ["--help shutdown", "shutdown -h", "-c x --help shutdown", "--version shutdown"])
def test_asking_about_a_command_never_runs_it(capsys: pytest.CaptureFixture[str], line: str) -> None:
    code, out, err = said(capsys, *line.split())
    assert code == 0 and out and not err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "no command given"),
        ("--json", "no command given"),
        ("stat", "there is no command 'stat'; did you mean status?"),
        ("xyzzy", "there is no command 'xyzzy'. `rollbridge --help`"),
        ("--jsn status", "has no option --jsn; did you mean --json?"),
        ("--versoin", "has no option --versoin; did you mean --version?"),
        ("deploy --relase-path /x", "has no option --relase-path; did you mean --release-path?"),
        ("deploy --release-pat /x", "did you mean --release-path?"),
        ("deploy --release-pat=/x", "did you mean --release-path?"),
        ("deploy", "the following arguments are required: --release-path"),
        ("deploy --release-path", "argument --release-path: expected one argument"),
        ("deploy /srv/app", "the following arguments are required: --release-path"),
        ("deploy --release-path /x y", "does not take 'y'"),
        ("deploy --release-path /x --daemon-log-path /l", "--daemon-log-path is for --ensure-daemon"),
        ("deploy --release-path /x --ensure-daemon --daemon-start-timeout 30", 'write "30s" for seconds'),
        ("status --json=yes", "ignored explicit argument"),
        ("status -x", "does not take '-x'"),
        ("events --limit -1", "argument --limit: '-1' is not a whole number"),
        ("events --limit ten", "'ten' is not a whole number"),
        ("logs --lines", "expected one argument"),
        ("restart --policy workers", "invalid choice: 'workers'"),
        ("daemon --release-id r1", "--release-id needs --release-path"),
        ("daemon --boot-attestation sha256:0", "--boot-attestation needs --release-path"),
        ("daemon --release-path /x --boot-attestation sha256:0", "64 hexadecimal digits"),
        ("daemon --release-path /x --resume", "exclude each other"),
        ("shutdown now", "does not take 'now'"),
    ],
)
def test_wrong_usage_is_answered_in_a_sentence_or_two(
    capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    code, out, err = said(capsys, *line.split())
    assert code == 2
    assert err.startswith("rollbridge: ") and words in err
    assert err.count("\n") <= 2
    assert out == "" if "--json" not in line.split() else json.loads(out)["exit_code"] == 2


def test_wrong_usage_with_json_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "deploy", "--json", "--relase-path", "/x")
    assert code == 2
    answer = json.loads(out)
    assert answer["status"] == "error" and answer["exit_code"] == 2
    assert err == f"rollbridge: {answer['error']}\n"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("status", "status"),
        ("-c x status", "status"),
        ("--config x --json status", "status"),
        ("--config=status deploy", "deploy"),
        ("-cstatus deploy", "deploy"),
        ("--json", None),
        ("-c", None),
        ("", None),
    ],
)
def test_the_command_is_found_among_the_options(line: str, name: str | None) -> None:
    assert command_name(line.split()) == name


def test_shared_options_may_stand_before_or_behind_the_command() -> None:
    for line in ("-c x --json status", "status -c x --json", "-c y status -c x --json", "--json -c x status"):
        parser, _ = parser_for("status", COMMANDS)
        args = parser.parse_args(line.split())
        assert (args.config, args.json) == ("x", True)
    parser, _ = parser_for("status", COMMANDS)
    assert parser.parse_args(["status"]).config == "rollbridge.toml"


def test_a_defect_is_one_sentence_unless_its_details_are_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(args: object) -> int:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("rollbridge.cli.observe.run_status", fail)
    commands = {"status": Command("observe", "")}
    assert run_command(["status"], commands) == 1
    err = capsys.readouterr().err
    assert err.startswith("rollbridge: internal error: ZeroDivisionError: two lines at test_dispatch.py:")
    assert err.count("\n") == 1 and "ROLLBRIDGE_DEBUG" in err
    monkeypatch.setenv("ROLLBRIDGE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run_command(["status"], commands)


def test_a_missing_config_file_is_told_with_the_way_out(run: Run, config: Path) -> None:
    config.unlink()
    outcome = run("status", "--json")
    assert outcome.exit_code == 2
    assert str(config) in outcome.stderr and outcome.stderr.count("\n") == 1
    assert outcome.json["problems"][0]["fix"]


def test_a_working_directory_that_is_gone_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, _, err = said(capsys, "status")
    assert code == 1 and "working directory does not exist" in err


def command_line(config: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    ended: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-m", "rollbridge", arguments[0], "-c", str(config), *arguments[1:]],
        text=True,
        check=False,
        **{"capture_output": True, **options},  # type: ignore[call-overload]
    )
    return ended


def test_an_unwritable_stdout_is_one_sentence(config: Path) -> None:
    with open("/dev/full", "w") as full:
        for arguments in (["config"], ["status", "--json"], ["validate"]):
            ended = command_line(config, *arguments, capture_output=False, stdout=full, stderr=subprocess.PIPE)
            assert ended.returncode in (1, 3)
            assert "No space left on device" in ended.stderr
            assert all(line.startswith("rollbridge: ") for line in ended.stderr.splitlines()), ended.stderr


def test_a_reader_that_has_had_enough_is_not_an_error(config: Path) -> None:
    shell = f"{sys.executable} -m rollbridge config -c {config} | true; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert ended.stdout == "0\n" and ended.stderr == ""


def test_a_stderr_that_is_gone_changes_no_exit_code(config: Path) -> None:
    for command, code in (("status", 3), ("validate", 0)):
        shell = f"{sys.executable} -m rollbridge {command} -c {config} 2>&1 >/dev/null | true; echo ${{PIPESTATUS[0]}}"
        ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
        assert ended.stdout == f"{code}\n"


def test_closed_streams_are_survived(config: Path) -> None:
    for redirection in (">&-", "2>&-", "<&- >&- 2>&-"):
        for command, code in (("status", 3), ("validate", 0), ("nonsense", 2)):
            shell = f"{sys.executable} -m rollbridge {command} -c {config} {redirection}"
            ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
            assert ended.returncode == code, (redirection, ended.stderr)
            assert "Traceback" not in ended.stderr


def test_a_locale_without_the_character_shows_it_escaped(config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text().replace('"true"', '"printf \u00e9"'))
    for environ in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}):
        ended = command_line(config, "config", env={"PATH": "/usr/bin:/bin", **environ})
        assert ended.returncode == 0, ended.stderr
        assert "printf \\" in ended.stdout


def test_a_client_command_imports_only_what_it_needs(config: Path) -> None:
    for command in ("status", "deploy", "shutdown", "logs"):
        code = (
            "import sys; from rollbridge.cli.main import main;"
            f"main(['{command}', '-c', {str(config)!r}] + ['--release-path', '/x'] * ({command!r} == 'deploy'));"
            f"print([name for name in {USES_OF_BASHFUL_IMPORTS!r} if name in sys.modules])"
        )
        ended = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
        assert "no daemon runs" in ended.stderr
        assert ended.stdout == "[]\n", command
    version = (
        "import sys; from rollbridge.cli.main import main; main(['--version']);"
        "print([name for name in ('argparse', 'typing', 'json', 're') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-I", "-c", version], capture_output=True, text=True, check=True)
    assert ended.stdout.endswith("[]\n")
