from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbridge.config.issues import ConfigError
from rollbridge.config.model import LegacyProcess, LegacyTakeoverConfig, RetentionConfig
from rollbridge.config.parse import parse_config
from tests.config.reading import WEB, issue_of, issues_of, parse

WHOLE = (
    """\
application = "ticket-server"
runtime_dir = "/run/rollbridge/ticket-server"
state_path = "/var/lib/rollbridge/ticket-server.state.json"
[control]
path = "/tmp/rollbridge-ticket-server.sock"
mode = "660"
owner = "deploy"
group = "deploy"
[proxy]
host = "127.0.0.1"
port = "{{env.PORT:-8182}}"
trusted_proxies = ["127.0.0.0/8", "::1/128"]
[release_retention]
keep = 3
max_age = "7d"
"""
    + WEB
    + """\
health = { path = "/ping", timeout = "30s", interval = "250ms", start_delay = "0s" }
[processes.worker]
command = ["python", "worker.py", "--url", "http://{{proxy.host}}:{{proxy.port}}"]
env = { A = "{{ports.broker}}", B = '''
multi [line]
''' }
replicas = 4
memory = { limit = "512MiB", warn = "384MiB", check_interval = "5s" }
lifecycle = { quiet_command = "kill -TSTP -$ROLLBRIDGE_PID", drain_timeout = "60s" }
[processes.broker]
policy = "service"
command = "redis-server --port {{port}}"
port = 7331
[legacy_takeover]
screens = ["ticket-server"]
processes = [{ name = "legacy web", includes = ["/home/dev/ticket-server/", "--port 8082"] }]
force_stop_timeout = "20s"
"""
)


def test_the_example_of_the_design_is_valid() -> None:
    assert issues_of(WHOLE) == []


def test_retention_defaults_and_settings() -> None:
    assert parse(WEB).release_retention == RetentionConfig(10, 0.0)
    assert parse(WHOLE).release_retention == RetentionConfig(3, 604800.0)
    assert issue_of(f"[release_retention]\nkeep = -1\n{WEB}").where == "release_retention.keep"
    assert issue_of(f"[release_retention]\nkept = 1\n{WEB}").fix == "did you mean keep?"


def test_legacy_takeover_is_read_and_its_timeout_is_by_default_that_of_the_proxy() -> None:
    assert parse(WEB).legacy_takeover is None
    assert parse(WHOLE).legacy_takeover == LegacyTakeoverConfig(
        ("ticket-server",), (LegacyProcess("legacy web", ("/home/dev/ticket-server/", "--port 8082")),), 20.0
    )
    empty = parse(f'[proxy]\nforce_stop_timeout = "4s"\n{WEB}[legacy_takeover]\n').legacy_takeover
    assert empty == LegacyTakeoverConfig((), (), 4.0)


def test_every_way_to_leave_an_old_supervisor_is_read() -> None:
    legacy = parse(
        f"""{WEB}[legacy_takeover]
pid_files = ["old.pid", "/run/{{{{application}}}}.pid"]
systemd_units = ["old-app.service", "old@1", 'a\\x2db.service']
supervisord_programs = ["old", "old:*"]
pm2_apps = ["old"]
commands = ["/etc/init.d/old stop"]
""",
    ).legacy_takeover
    assert legacy is not None
    application = parse(WEB).application
    directory = parse(WEB).source_path.rpartition("/")[0]
    assert legacy.pid_files == (f"{directory}/old.pid", f"/run/{application}.pid")
    assert legacy.systemd_units == ("old-app.service", "old@1", r"a\x2db.service")
    assert legacy.supervisord_programs == ("old", "old:*")
    assert (legacy.pm2_apps, legacy.commands) == (("old",), ("/etc/init.d/old stop",))


@pytest.mark.parametrize(
    ("settings", "where", "message"),
    [
        ('screens = "a"', "legacy_takeover.screens", "is not an array"),
        ("screens = [1]", "legacy_takeover.screens[0]", "1 is not text"),
        ('screens = [""]', "legacy_takeover.screens[0]", "empty"),
        ("processes = 1", "legacy_takeover.processes", "1 is not an array"),
        ("processes = [1]", "legacy_takeover.processes[0]", "1 is not a table"),
        ('processes = [{ includes = ["x"] }]', "legacy_takeover.processes[0]", "name is missing"),
        ('processes = [{ name = "x" }]', "legacy_takeover.processes[0]", "includes is missing"),
        ('processes = [{ name = "x", includes = [] }]', "legacy_takeover.processes[0].includes", "every process"),
        ('processes = [{ name = "x", includes = [""] }]', "legacy_takeover.processes[0].includes[0]", "empty"),
        ('processes = [{ name = "x", includes = "x" }]', "legacy_takeover.processes[0].includes", "not an array"),
        ('processes = [{ name = "x", includes = ["x"], a = 1 }]', "legacy_takeover.processes[0].a", "no setting"),
        ('force_stop_timeout = "x"', "legacy_takeover.force_stop_timeout", "not a duration"),
        ("screen = []", "legacy_takeover.screen", "no setting"),
        ('systemd_units = ["--now"]', "legacy_takeover.systemd_units[0]", "cannot be the name"),
        ('systemd_units = ["a b"]', "legacy_takeover.systemd_units[0]", "cannot be the name"),
        ('supervisord_programs = ["-c"]', "legacy_takeover.supervisord_programs[0]", "begins with -"),
        ('pm2_apps = ["a", "b c"]', "legacy_takeover.pm2_apps[1]", "has blanks"),
        ('pid_files = ["~/a.pid"]', "legacy_takeover.pid_files[0]", "begins with ~"),
        ('pid_files = "a.pid"', "legacy_takeover.pid_files", "not an array"),
        ("commands = [[]]", "legacy_takeover.commands[0]", "is not text"),
        ('command = ["true"]', "legacy_takeover.command", "no setting"),
    ],
)
def test_wrong_legacy_takeover_is_told(settings: str, where: str, message: str) -> None:
    issue = issue_of(f"{WEB}[legacy_takeover]\n{settings}\n")
    assert (issue.where, issue.line) == (where, 6)
    assert message in issue.message


def test_legacy_takeover_that_is_no_table_is_told() -> None:
    assert issue_of(f"legacy_takeover = true\n{WEB}").message == "true is not a table"


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        'bogus = 1\n[proxy]\nport = 0\nhost = 1\n[processes.web]\npolicy = "proxied"\ncommand = "{{prot}}"\n'
        'port = 7000\nreplicas = 3\n[processes.b]\nenv = { X = 1, Y = "{{env.NOPE}}" }\n'
    )
    assert [(issue.line, issue.where) for issue in issues_of(text)] == [
        (1, "bogus"),
        (3, "proxy.port"),
        (4, "proxy.host"),
        (7, "processes.web.command"),
        (8, "processes.web.port"),
        (10, "processes.b.command"),
        (11, "processes.b.env.X"),
        (11, "processes.b.env.Y"),
    ]


def test_problems_are_told_in_the_same_order_every_time() -> None:
    text = "".join(f"k{number} = {number}\n" for number in range(15))
    assert issues_of(text) == issues_of(text)


def test_problem_without_a_line_comes_last() -> None:
    issues = issues_of("bogus = 1\n")
    assert [issue.line for issue in issues] == [1, None]


def test_thousand_unknown_keys_are_told_by_the_first_few() -> None:
    issues = issues_of(WEB + "[proxy]\n" + "".join(f"k{number} = 1\n" for number in range(1000)))
    assert len(issues) == 21
    assert issues[-1].message == "there are 980 more unknown settings from here on"


def test_error_text_names_file_line_and_fix() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"[proxy]\nport = 0\n{WEB}")
    assert str(caught.value) == (
        "/srv/shop/rollbridge.toml:2: proxy.port: 0 is below 1; choose a number from 1 to 65535"
    )
    with pytest.raises(ConfigError) as caught:
        parse(f"[proxy]\nport = 0\nworkers = 0\n{WEB}")
    assert str(caught.value) == (
        "/srv/shop/rollbridge.toml has 2 problems:\n"
        "  line 2: proxy.port: 0 is below 1; choose a number from 1 to 65535\n"
        "  line 3: proxy.workers: 0 is below 1; choose a number from 1 to 256"
    )


HOSTILE = {
    "many processes": WEB + "".join(f"[processes.p{number}]\n" for number in range(40_000)),
    "many good processes": WEB
    + "".join(f'[processes.p{number}]\ncommand="{{{{ports.p}}}}"\n' for number in range(20_000)),
    "many variables": WEB
    + "[processes.web.env]\n"
    + "".join(f'k{number} = "{{{{nope}}}}"\n' for number in range(40_000)),
    "many words": WEB + f"[processes.a]\ncommand = [{'1,' * 400_000}]\n",
    "many networks": WEB + f"[proxy]\ntrusted_proxies = [{'1,' * 400_000}]\n",
    "many texts": WEB + "[legacy_takeover]\nscreens = [" + '"{{a}}",' * 100_000 + "]\n",
    "many placeholders": WEB + f'[processes.a]\ncommand = "{"{{a}}" * 150_000}"\n',
    "many unset variables": WEB + f'[processes.a]\ncommand = "{"".join(f"{{{{env.A{n}}}}}" for n in range(70_000))}"\n',
    "a long key": "k" * 1_000_000 + " = 1\n" + WEB,
    "many tables": "[[legacy_takeover.processes]]\n" * 30_000 + WEB,
    "nested tables": f"proxy = {'{a = ' * 150}1{'}' * 150}\n{WEB}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_told_in_bounded_time_and_words(name: str) -> None:
    started = time.monotonic()
    issues = issues_of(HOSTILE[name], {f"VARIABLE_{number}": "x" for number in range(60)})
    assert time.monotonic() - started < 20  # about a second; the bound is for a loaded machine
    assert 0 < len(issues) <= 201
    assert all(len(issue.text) < 1500 for issue in issues)


def check_only_config_errors(data: bytes) -> None:
    try:
        parse_config(data, "/srv/shop/rollbridge.toml", {"PORT": "1"}, uid=1000)
    except ConfigError as error:
        assert error.issues
        for issue in error.issues:
            assert issue.message
            assert issue.fix
            assert issue.text.isprintable(), issue
            assert "\n" not in issue.text
            assert issue.line is None or 1 <= issue.line <= data.count(b"\n") + 1


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_told(data: bytes) -> None:
    check_only_config_errors(data)


VALUES = (
    "1", "-1", "0", "true", "nan", "inf", "1.5", '"x"', '""', "[]", "{}", "[1]", '{a = 1}', "1979-05-27", "07:32:00",
    "1979-05-27T07:32:00Z", '"{{"', '"{{port}}"', '"{{env.PORT}}"', '"{{env.X}}"', '"\\u0000"', '"\\u001b[2J"',
    "[[[]]]", "99999999999999999999999999", '"30s"', '"1MiB"', '["a", 1]', "false", '[{}, {name = 1}]',
    "{from = 1, to = 2}",
)  # fmt: skip


def test_every_key_takes_every_kind_of_value_or_tells() -> None:
    lines = WHOLE.split("\n")
    for number, line in enumerate(lines):
        key, equals, _ = line.partition(" = ")
        if equals and not key.startswith("env"):
            for value in VALUES:
                changed = [*lines[:number], f"{key} = {value}", *lines[number + 1 :]]
                check_only_config_errors("\n".join(changed).encode())


KEYS = (
    "control.mode", "control.path", "proxy.upstream_host", "proxy.workers", "proxy.max_head", "proxy.access_log",
    "processes.web.health", "processes.web.health.path", "processes.web.env", "processes.web.lifecycle",
    "processes.web.restart", "processes.web.restart.backoff_factor", "processes.web.memory",
    "processes.web.memory.warn",
    "processes.web.stop_signal", "processes.web.graceful_stop", "processes.web.replicas", "processes.web",
    "processes.web.command", "processes", "control", "proxy", "legacy_takeover", "legacy_takeover.processes",
    "release_retention", "application", "runtime_dir", "state_path",
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_of_the_wrong_kind_is_told(key: str) -> None:
    for value in VALUES:
        check_only_config_errors(f"{key} = {value}\n".encode())


@given(st.data())
def test_any_damage_to_a_config_is_read_or_told(data: st.DataObject) -> None:
    damaged = bytearray(WHOLE.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(damaged)))
        end = start + data.draw(st.integers(0, 20))
        damaged[start:end] = data.draw(st.binary(max_size=8) | st.sampled_from([value.encode() for value in VALUES]))
    check_only_config_errors(bytes(damaged))


def test_lines_in_any_order_are_read_or_told() -> None:
    shuffler = random.Random(7)
    lines = WHOLE.split("\n")
    for _ in range(200):
        shuffler.shuffle(lines)
        check_only_config_errors("\n".join(lines[: shuffler.randrange(len(lines))]).encode())
