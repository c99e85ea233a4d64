from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from rollbridge.config.launch import TemplateError, check_release_identity, resolve_launch
from rollbridge.config.model import EnvFile, EnvSources, Launch, LaunchContext, LifecycleConfig
from tests.config.reading import WEB, parse

CONTEXT = LaunchContext(
    application="shop",
    release_id="r42",
    release_path="/srv/shop/releases/r42",
    revision="abc123",
    process_id="web",
    replica_index=1,
    replica_count=2,
    port=18183,
    ports={"web": 18182, "my-broker": 7331},
    proxy_host="0.0.0.0",
    proxy_port=8182,
    proxy_upstream_host="127.0.0.1",
    environ={"PATH": "/bin", "HOME": "/home/deploy"},
)


def launch(settings: str = "", context: LaunchContext = CONTEXT, command: str = '"serve"') -> Launch:
    text = WEB.replace('"serve"', command) + settings + '\n[processes.my-broker]\ncommand = "x"\nport = 7331\n'
    return resolve_launch(parse(text, context.environ).processes["web"], context)


def test_text_runs_under_a_shell_and_an_array_directly() -> None:
    assert launch(command='"serve --port {{port}}"').argv == ("/bin/sh", "-c", "serve --port 18183")
    assert launch(command='["serve", "--port={{port}}", ""]').argv == ("serve", "--port=18183", "")


def test_every_name_has_its_value() -> None:
    names = [
        "application",
        "release_id",
        "release_path",
        "revision",
        "process_id",
        "replica_index",
        "replica_count",
        "port",
        "ports.web",
        "ports.my-broker",
        "proxy.host",
        "proxy.port",
        "proxy.upstream_host",
        "env.HOME",
        "env.NONE:-x",
    ]
    command = ", ".join(f'"{{{{{name}}}}}"' for name in names)
    assert launch(command=f"[{command}]").argv == (
        "shop", "r42", "/srv/shop/releases/r42", "abc123", "web", "1", "2", "18183", "18182", "7331", "0.0.0.0", "8182",
        "127.0.0.1", "/home/deploy", "x",
    )  # fmt: skip


def test_process_runs_in_its_release_or_where_it_says() -> None:
    assert launch().cwd == "/srv/shop/releases/r42"
    assert launch('cwd = "{{release_path}}/api"').cwd == "/srv/shop/releases/r42/api"


def test_environment_is_inherited_then_injected_then_its_own() -> None:
    env = launch('env = { ROLLBRIDGE_PORT = "own", HOME = "{{release_path}}", X = "{{ports.web}}" }').env
    assert env == {
        "PATH": "/bin",
        "HOME": "/srv/shop/releases/r42",
        "X": "18182",
        "ROLLBRIDGE_APPLICATION": "shop",
        "ROLLBRIDGE_PROCESS_ID": "web",
        "ROLLBRIDGE_RELEASE_ID": "r42",
        "ROLLBRIDGE_RELEASE_PATH": "/srv/shop/releases/r42",
        "ROLLBRIDGE_REVISION": "abc123",
        "ROLLBRIDGE_REPLICA_INDEX": "1",
        "ROLLBRIDGE_REPLICA_COUNT": "2",
        "ROLLBRIDGE_PORT": "own",
        "ROLLBRIDGE_WEB_PORT": "18182",
        "ROLLBRIDGE_MY_BROKER_PORT": "7331",
    }


def test_process_without_a_port_is_told_those_of_the_others_only() -> None:
    env = launch(context=replace(CONTEXT, port=None)).env
    assert "ROLLBRIDGE_PORT" not in env
    assert env["ROLLBRIDGE_WEB_PORT"] == "18182"


def test_what_is_addressed_to_the_supervisor_is_not_inherited() -> None:
    inherited = {"LISTEN_FDS": "1", "LISTEN_PID": "7", "NOTIFY_SOCKET": "/x", "ROLLBRIDGE_OTHER": "stale", "LANG": "C"}
    env = launch(context=replace(CONTEXT, environ=inherited)).env
    assert {"LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "ROLLBRIDGE_OTHER"} & set(env) == set()
    assert env["LANG"] == "C"


def test_hooks_are_expanded() -> None:
    lifecycle = launch(
        'lifecycle = { quiet_command = "q {{port}}", drain_command = "d {{{{", stop_command = "s", '
        'drain_timeout = "2s" }'
    ).lifecycle
    assert lifecycle == LifecycleConfig("q 18183", "d {{", "s", 2.0)


def test_variable_that_is_gone_at_the_start_is_told() -> None:
    process = parse(f'{WEB}env = {{ A = "{{{{env.TOKEN}}}}" }}', {"TOKEN": "x"}).proxied
    with pytest.raises(TemplateError) as caught:
        resolve_launch(process, CONTEXT)
    error = caught.value
    assert error.where == "processes.web.env.A"
    assert error.message == "the environment variable TOKEN is not set"
    assert str(error).startswith("processes.web.env.A: the environment variable TOKEN is not set; set TOKEN, or give")


def test_working_directory_that_becomes_relative_is_told() -> None:
    process = parse(f'{WEB}cwd = "{{{{env.DIR}}}}"', {"DIR": "/x"}).proxied
    with pytest.raises(TemplateError, match=r"processes.web.cwd: cwd \"x\" is a relative path"):
        resolve_launch(process, replace(CONTEXT, environ={"DIR": "x"}))


SHELL_CHARACTERS = " \t\n;&|<>()$`\\\"'*?[]#~!{}^\x01\u00a0\u2028"


@pytest.mark.parametrize("character", SHELL_CHARACTERS)
def test_release_path_that_a_shell_would_interpret_is_refused_in_a_shell_command(character: str) -> None:
    context = replace(CONTEXT, release_path=f"/srv/a{character}b")
    with pytest.raises(TemplateError) as caught:
        launch(command='"{{release_path}}/bin/serve"', context=context)
    assert caught.value.where == "processes.web.command"
    assert "which a shell would interpret" in caught.value.message
    assert 'command = ["program", "{{release_path}}/..."]' in caught.value.fix
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("hook", ["quiet_command", "drain_command", "stop_command"])
def test_release_path_that_a_shell_would_interpret_is_refused_in_a_hook(hook: str) -> None:
    settings = f'lifecycle = {{ {hook} = "{{{{release_path}}}}/x", drain_timeout = "1s" }}'
    with pytest.raises(TemplateError) as caught:
        launch(settings, replace(CONTEXT, release_path="/srv/$(reboot)"))
    assert caught.value.where == f"processes.web.lifecycle.{hook}"
    assert '"$ROLLBRIDGE_RELEASE_PATH"' in caught.value.fix


def test_any_release_path_is_right_where_no_shell_reads_it() -> None:
    odd = replace(CONTEXT, release_path="/srv/my app/$(x)")
    assert launch(command='["{{release_path}}/serve"]', context=odd).argv == ("/srv/my app/$(x)/serve",)
    assert launch('env = { A = "{{release_path}}" }', context=odd).env["A"] == "/srv/my app/$(x)"
    assert launch(command='"./serve"', context=odd).argv[2] == "./serve"


@pytest.mark.parametrize("path", ["/srv/a_b-c.d/r@1+2=3:4,5%6", "/srv/größe/版"])
def test_release_path_that_is_accepted_reaches_the_program_as_it_is(path: str, tmp_path: Path) -> None:
    argv = launch(command='"printf %s {{release_path}}"', context=replace(CONTEXT, release_path=path)).argv
    assert subprocess.run(argv, capture_output=True, check=True).stdout.decode() == path


def test_environment_values_stand_in_a_command_as_the_operator_wrote_them() -> None:
    context = replace(CONTEXT, environ={"FLAGS": "--a --b"})
    assert launch(command='"serve {{env.FLAGS}}"', context=context).argv[2] == "serve --a --b"


@pytest.mark.parametrize("name", ["r42", "v1.4.2", "2024-05-17_1", "A" * 200, "0"])
def test_usual_names_of_releases_are_taken(name: str) -> None:
    assert check_release_identity(name, name) == ()


@pytest.mark.parametrize("name", ["", ".", "..", "-r", "_r", "a/b", "a b", "r;reboot", "A" * 201, "é", "r42\n", "a\0"])
def test_names_of_releases_that_are_no_file_names_are_told(name: str) -> None:
    issues = check_release_identity(name, name)
    assert [issue.where for issue in issues] == ["release_id", "revision"]
    assert "--release-id" in issues[0].fix
    assert "--revision" in issues[1].fix
    assert all(issue.text.isprintable() for issue in issues)


def test_sources_of_the_environment_are_expanded_and_a_question_mark_makes_a_file_optional() -> None:
    found = launch(
        'env_file = ["/etc/{{application}}.env", "{{release_path}}/.env?"]\n'
        'env_command = { command = ["secrets", "{{release_id}}"], timeout = "3s" }\n'
        'env = { A = "{{process_id}}" }'
    )
    assert found.env_sources == EnvSources(
        files=(EnvFile("/etc/shop.env", False), EnvFile("/srv/shop/releases/r42/.env", True)),
        command=("secrets", "r42"),
        command_timeout_seconds=3.0,
        own={"A": "web"},
    )
    assert launch().env_sources is None
    assert launch('env_command = "secrets | cat"').env_sources == EnvSources(
        (), ("/bin/sh", "-c", "secrets | cat"), 10.0, {}
    )


def test_env_file_of_a_start_is_an_absolute_path_and_env_command_is_checked_like_the_command() -> None:
    context = replace(CONTEXT, environ={"DIR": "x"})
    process = parse(WEB + 'env_file = "{{env.DIR}}/a"', {"DIR": "/x"}).processes["web"]
    with pytest.raises(TemplateError, match="env_file") as caught:
        resolve_launch(process, context)
    assert caught.value.where == "processes.web.env_file"
    process = parse(WEB + 'env_command = "{{release_path}}/secrets"').processes["web"]
    with pytest.raises(TemplateError, match="which a shell would interpret"):
        resolve_launch(process, replace(CONTEXT, release_path="/srv/a b"))
