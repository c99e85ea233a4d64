from __future__ import annotations

import pytest

from tests.config.reading import WEB, issue_of, issues_of, parse

USER = {"XDG_RUNTIME_DIR": "/run/user/1000", "HOME": "/home/deploy"}


def test_application_is_named_by_default_after_the_directory_of_the_config() -> None:
    assert parse(WEB).application == "shop"


@pytest.mark.parametrize("path", ["/rollbridge.toml", "/srv/my shop/rollbridge.toml", "/srv/.hidden/x.toml"])
def test_directory_that_cannot_name_the_application_is_told(path: str) -> None:
    with pytest.raises(Exception, match=r"cannot name the application.*add a line at the top of the file"):
        parse(WEB, path=path)


@pytest.mark.parametrize("name", ["a/b", "..", ".a", "-a", "a b", "x" * 65, "a\\nb", "é"])
def test_application_must_be_fit_for_file_names(name: str) -> None:
    issue = issue_of(f'application = "{name}"\n{WEB}')
    assert (issue.where, issue.line) == ("application", 1)
    assert '"ticket-server"' in issue.fix


@pytest.mark.parametrize("name", ["a", "ticket-server", "shop.example", "A_1", "9"])
def test_usual_application_names_are_taken(name: str) -> None:
    assert parse(f'application = "{name}"\n{WEB}').application == name


def test_runtime_directory_of_root_is_in_run() -> None:
    assert parse(WEB, USER, uid=0).runtime_dir == "/run/rollbridge/shop"


def test_runtime_directory_of_a_user_is_the_one_of_the_session() -> None:
    assert parse(WEB, USER).runtime_dir == "/run/user/1000/rollbridge/shop"


@pytest.mark.parametrize("session", ["", "relative/dir"])
def test_runtime_directory_without_a_session_is_in_tmp(session: str) -> None:
    assert parse(WEB, {"XDG_RUNTIME_DIR": session}).runtime_dir == "/tmp/rollbridge-1000/shop"
    assert parse(WEB).runtime_dir == "/tmp/rollbridge-1000/shop"


def test_state_is_by_default_in_the_runtime_directory() -> None:
    assert parse(WEB).state_path == "/tmp/rollbridge-1000/shop/state.json"
    assert parse(f'runtime_dir = "/run/x"\n{WEB}').state_path == "/run/x/state.json"


def test_relative_paths_start_at_the_config_file() -> None:
    config = parse(f'runtime_dir = "run"\nstate_path = "../s.json"\n[control]\npath = "./c.sock"\n{WEB}')
    assert config.runtime_dir == "/srv/shop/run"
    assert config.state_path == "/srv/s.json"
    assert config.control.path == "/srv/shop/c.sock"


def test_paths_are_expanded() -> None:
    config = parse(f'runtime_dir = "{{{{env.HOME}}}}/{{{{application}}}}"\nstate_path = "/x/{{{{{{{{"\n{WEB}', USER)
    assert config.runtime_dir == "/home/deploy/shop"
    assert config.state_path == "/x/{{"


def test_tilde_is_refused_with_what_to_write_instead() -> None:
    issue = issue_of(f'state_path = "~/x"\n{WEB}')
    assert issue.fix == 'write "{{env.HOME}}/..." instead'


def test_name_of_a_start_is_refused_outside_of_processes() -> None:
    issue = issue_of(f'state_path = "/x/{{{{release_id}}}}"\n{WEB}')
    assert issue.message == "{{release_id}} is known only when a process starts"


def test_environment_value_that_is_not_utf_8_is_refused() -> None:
    issue = issue_of(f'state_path = "/x/{{{{env.ODD}}}}"\n{WEB}', {"ODD": "\udcff"})
    assert "not UTF-8" in issue.message


@pytest.mark.parametrize(("length", "count"), [(107, 0), (108, 1)])
def test_control_socket_path_is_no_longer_than_a_socket_path_can_be(length: int, count: int) -> None:
    path = "/" + "x" * (length - 1)
    assert len(issues_of(f'[control]\npath = "{path}"\n{WEB}')) == count


def test_length_of_socket_paths_is_counted_in_bytes() -> None:
    issue = issue_of(f'[control]\npath = "/{"é" * 60}"\n{WEB}')
    assert (issue.where, issue.line) == ("control.path", 2)
    assert "107 bytes" in issue.message


@pytest.mark.parametrize(("length", "count"), [(90, 0), (91, 1)])
def test_runtime_directory_leaves_room_for_the_sockets_in_it(length: int, count: int) -> None:
    assert len(issues_of(f'runtime_dir = "/{"x" * (length - 1)}"\n{WEB}')) == count


def test_control_defaults() -> None:
    control = parse(WEB).control
    assert control == ("/tmp/rollbridge-shop.sock", 0o600, None, None)


@pytest.mark.parametrize(
    ("mode", "bits"), [("600", 0o600), ("660", 0o660), ("0660", 0o660), ("0o660", 0o660), ("770", 0o770)]
)
def test_mode_is_octal(mode: str, bits: int) -> None:
    assert parse(f'[control]\nmode = "{mode}"\n{WEB}').control.mode == bits


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("660", "660 is a number, not octal text"),
        ("0o660", "is a number, not octal text"),
        ('"888"', "not an octal mode"),
        ('"rw-rw----"', "not an octal mode"),
        ('"060"', "keeps the owner"),
        ('"400"', "keeps the owner"),
        ('"666"', "lets every user"),
        ('"777"', "lets every user"),
        ('"4660"', "bits above 777"),
        ("true", "is not text"),
        ('""', "empty"),
    ],
)
def test_other_modes_are_refused(mode: str, message: str) -> None:
    issue = issue_of(f"[control]\nmode = {mode}\n{WEB}")
    assert (issue.where, issue.line) == ("control.mode", 2)
    assert message in issue.message
    assert '"660"' in issue.fix


def test_owner_and_group_are_names_or_numbers() -> None:
    control = parse(f'[control]\nowner = "deploy"\ngroup = 1000\n{WEB}').control
    assert (control.owner, control.group) == ("deploy", "1000")


@pytest.mark.parametrize("value", ['"a:b"', '"a b"', '""', "-1", "true", "4294967295", "[]", "1.5"])
def test_other_owners_are_refused(value: str) -> None:
    assert issue_of(f"[control]\nowner = {value}\n{WEB}").where == "control.owner"


def test_unknown_key_of_control_is_told_with_the_nearest() -> None:
    issue = issue_of(f'[control]\nonwer = "x"\n{WEB}')
    assert (issue.where, issue.message, issue.fix, issue.line) == (
        "control.onwer", 'there is no setting "onwer" here', "did you mean owner?", 2
    )  # fmt: skip
