from __future__ import annotations

import signal
from typing import Any

import pytest

from rollbridge.config.model import (
    DeployStrategy,
    EnvCommand,
    GroupLimits,
    HealthConfig,
    KillMode,
    LifecycleConfig,
    Limit,
    MemoryConfig,
    Permissions,
    Policy,
    PortRange,
    ProcessConfig,
    RestartConfig,
)
from tests.config.reading import WEB, issue_of, issues_of, parse

WORKER = '[processes.worker]\ncommand = "work"\n'


def worker(settings: str, environ: dict[str, str] | None = None) -> ProcessConfig:
    return parse(f"{WEB}{WORKER}{settings}\n", environ).processes["worker"]


def test_process_defaults() -> None:
    assert worker("") == ProcessConfig(
        id="worker",
        policy=Policy.COMPANION,
        command="work",
        cwd="{{release_path}}",
        env={},
        port=None,
        health=None,
        replicas=1,
        stop_signal=signal.SIGTERM,
        graceful_stop_seconds=10.0,
        non_blocking_drain=False,
        output_lines=50,
        restart_delay_seconds=1.0,
        restart=RestartConfig(None, 0.0, 1.0, 0.0),
        memory=None,
        lifecycle=LifecycleConfig(None, None, None, 0.0),
        deploy_strategy=DeployStrategy.PERSISTENT,
    )


def test_proxied_process_is_probed_as_the_proxy_says() -> None:
    config = parse(f'[proxy]\nhealth_path = "/up"\nhealth_timeout = "7s"\n{WEB}')
    assert config.proxied.health == HealthConfig("/up", 7.0, 0.25, 0.0)


def test_process_stops_as_gracefully_as_the_proxy_says() -> None:
    assert parse(f'[proxy]\nforce_stop_timeout = "3s"\n{WEB}').proxied.graceful_stop_seconds == 3.0


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ('cwd = "/srv"', "cwd", "/srv"),
        ('cwd = "{{release_path}}/sub"', "cwd", "{{release_path}}/sub"),
        ('cwd = "{{env.DIR:-/x}}"', "cwd", "{{env.DIR:-/x}}"),
        ('env = { A = "1", "b.c" = "{{release_id}}", E = "" }', "env", {"A": "1", "b.c": "{{release_id}}", "E": ""}),
        ("port = 7331", "port", PortRange(7331, 7331)),
        ('port = "7331"', "port", PortRange(7331, 7331)),
        ('port = "7000-7009"', "port", PortRange(7000, 7009)),
        ('port = " 7000 - 7009 "', "port", PortRange(7000, 7009)),
        ("port = { from = 7000, to = 7009 }", "port", PortRange(7000, 7009)),
        ('port = { from = "{{env.P:-7000}}", to = 7009 }', "port", PortRange(7000, 7009)),
        ("port = { from = 7000, to = 7000 }", "port", PortRange(7000, 7000)),
        ('port = "{{env.P:-7000}}-{{env.Q:-7005}}"', "port", PortRange(7000, 7005)),
        ("replicas = 4", "replicas", 4),
        ('replicas = "{{env.N:-3}}"', "replicas", 3),
        ('stop_signal = "SIGQUIT"', "stop_signal", signal.SIGQUIT),
        ('stop_signal = "SIGKILL"', "stop_signal", signal.SIGKILL),
        ('graceful_stop = "60s"', "graceful_stop_seconds", 60.0),
        ('graceful_stop = "0s"', "graceful_stop_seconds", 0.0),
        ('graceful_stop = "indefinite"', "graceful_stop_seconds", None),
        ("non_blocking_drain = true", "non_blocking_drain", True),
        ('non_blocking_drain = "{{env.D:-true}}"', "non_blocking_drain", True),
        ("output_lines = 0", "output_lines", 0),
        ('restart_delay = "0s"', "restart_delay_seconds", 0.0),
        ("restart = { max_restarts = 0 }", "restart", RestartConfig(0, 0.0, 1.0, 0.0)),
        (
            'restart = { max_restarts = 5, window = "1m", backoff_factor = 1.5, max_delay = "30s" }',
            "restart",
            RestartConfig(5, 60.0, 1.5, 30.0),
        ),
        ('memory = { limit = "512MiB" }', "memory", MemoryConfig(512 * 2**20, None, 5.0)),
        ('memory = { warn = "1MiB", check_interval = "1s" }', "memory", MemoryConfig(None, 2**20, 1.0)),
        (
            'lifecycle = { quiet_command = "q", drain_command = "d", stop_command = "s", drain_timeout = "60s" }',
            "lifecycle",
            LifecycleConfig("q", "d", "s", 60.0),
        ),
        ('policy = "singleton"', "policy", Policy.SINGLETON),
        ("cgroup = true", "cgroup", GroupLimits()),
        ("cgroup = false", "cgroup", None),
        (
            'memory_max = "1GiB"\ncpu_max = 1.5\npids_max = 100',
            "cgroup",
            GroupLimits(memory_max_bytes=2**30, cpu_max_cores=1.5, pids_max=100),
        ),
        ("pids_max = 1", "cgroup", GroupLimits(pids_max=1)),
        ('kill_mode = "process"', "kill_mode", KillMode.PROCESS),
        ("restart = { no_restart_codes = [0, 78, 0] }", "restart", RestartConfig(no_restart_codes=(0, 78))),
        ('user = "deploy"', "permissions", Permissions(user="deploy")),
        ('user = 1000\ngroup = "{{env.G:-www-data}}"', "permissions", Permissions(user="1000", group="www-data")),
        ("supplementary_groups = []", "permissions", Permissions(supplementary_groups=())),
        ('supplementary_groups = ["video", 7]', "permissions", Permissions(supplementary_groups=("video", "7"))),
        ('umask = "027"', "permissions", Permissions(umask=0o027)),
        ("nice = -20", "permissions", Permissions(nice=-20)),
        ("limits = { nofile = 65536 }", "permissions", Permissions(limits={"nofile": Limit(65536, 65536)})),
        (
            'limits = { core = "0:unlimited", as = "1GiB", cpu = "1h:7200", nproc = "unlimited", data = "1KiB:2KiB" }',
            "permissions",
            Permissions(
                limits={
                    "nproc": Limit(None, None),
                    "core": Limit(0, None),
                    "as": Limit(2**30, 2**30),
                    "data": Limit(1024, 2048),
                    "cpu": Limit(3600, 7200),
                }
            ),
        ),
        ('env_file = "/etc/a.env"', "env_file", ("/etc/a.env",)),
        ('env_file = ["{{release_path}}/.env?", "/b"]', "env_file", ("{{release_path}}/.env?", "/b")),
        ('env_command = "secrets | grep A"', "env_command", EnvCommand("secrets | grep A", 10.0)),
        ('env_command = ["secrets", "a b"]', "env_command", EnvCommand(("secrets", "a b"), 10.0)),
        (
            'env_command = { command = ["secrets", "{{application}}"], timeout = "2s" }',
            "env_command",
            EnvCommand(("secrets", "{{application}}"), 2.0),
        ),
        ('policy = "service"\ndeploy_strategy = "persistent"', "deploy_strategy", DeployStrategy.PERSISTENT),
        (
            'policy = "service"\ndeploy_strategy = "handoff"\nport = "7000-7009"',
            "deploy_strategy",
            DeployStrategy.HANDOFF,
        ),
    ],
)
def test_setting_is_read(setting: str, name: str, value: Any) -> None:
    assert getattr(worker(setting), name) == value


def test_command_is_text_for_a_shell_or_an_array_of_words() -> None:
    assert parse(f'{WEB}[processes.a]\ncommand = "a | b"\n').processes["a"].command == "a | b"
    assert parse(f'{WEB}[processes.a]\ncommand = ["a", "", "b c"]\n').processes["a"].command == ("a", "", "b c")


def test_health_of_the_proxied_process_can_be_set_in_part_or_turned_off() -> None:
    assert parse(f'{WEB}health = {{ path = "/up", interval = "1s" }}').proxied.health == HealthConfig(
        "/up", 30.0, 1.0, 0.0
    )
    assert parse(f"{WEB}health = {{ start_delay = '2s' }}").proxied.health == HealthConfig("/ping", 30.0, 0.25, 2.0)
    assert parse(f"{WEB}health = false").proxied.health is None


@pytest.mark.parametrize(
    ("setting", "where", "message", "fix"),
    [
        ('policy = "sevice"', "policy", '"sevice" is not one of "proxied", "companion"', 'did you mean "service"?'),
        ("policy = 1", "policy", "1 is not text", 'policy = "proxied"'),
        ('cwd = ""', "cwd", "empty", "or remove the line"),
        ("cwd = 1", "cwd", "1 is not text", '"{{release_path}}"'),
        ('cwd = "sub"', "cwd", 'cwd "sub" is a relative path', 'write "{{release_path}}/sub" for'),
        ('cwd = "./sub"', "cwd", "relative path", 'write "{{release_path}}/sub" for'),
        ('cwd = "{{env.DIR:-x}}"', "cwd", 'cwd "x" is a relative path', "or a path from /"),
        ('cwd = "{{prot}}"', "cwd", 'no placeholder "{{prot}}"', "use one of"),
        ("env = 1", "env", "1 is not a table", "APP_ENV"),
        ("env = { A = 1 }", "env.A", "1 is not text", 'put it in quotes: A = "1"'),
        ("env = { A = true }", "env.A", "true is not text", 'put it in quotes: A = "true"'),
        ('env = { "A=B" = "x" }', 'env."A=B"', '"A=B" cannot be the name', "letters, digits and _"),
        ('env = { "" = "x" }', 'env.""', '"" cannot be the name', "letters, digits and _"),
        ('env = { A = "\\u0000" }', "env.A", "NUL", "remove"),
        ('env = { A = "{{env.NOPE}}" }', "env.A", "NOPE is not set", "{{env.NOPE:-value}}"),
        ('env = { ROLLBRIDGE_INSTANCE = "x" }', "env.ROLLBRIDGE_INSTANCE", "knows its processes", "another name"),
        ("port = 0", "port", "0 is below 1", "from 1 to 65535"),
        ("port = 65536", "port", "65536 is above 65535", "from 1 to 65535"),
        ('port = "7000-65536"', "port", "65536 is above 65535", "from 1 to 65535"),
        ('port = "7009-7000"', "port", "the range 7009-7000 descends", "{ from = 7000, to = 7009 }"),
        ("port = { from = 2, to = 1 }", "port", "the range 2-1 descends", "{ from = 1, to = 2 }"),
        ("port = { from = 1 }", "port", "the range has no 'to'", "{ from = 18182, to = 18299 }"),
        ("port = { from = 1, to = 2, step = 1 }", "port.step", 'no setting "step"', "port can have from, to"),
        ("port = { from = true, to = 2 }", "port.from", "true is not a whole number", "from 1 to 65535"),
        ('port = "any"', "port", '"any" is neither a port nor a range', '"18182-18299"'),
        ("port = true", "port", "true is neither a port nor a range", '"18182-18299"'),
        ("port = [1]", "port", "an array is neither a port nor a range", '"18182-18299"'),
        ("port = 70.5", "port", "70.5 is neither a port nor a range", '"18182-18299"'),
        ('health = { path = "/x" }', "health", "this is a companion", 'set policy = "proxied"'),
        ("health = false", "health", "health belongs to the proxied process", "remove it"),
        ("replicas = 0", "replicas", "0 is below 1", "from 1 to 1000"),
        ("replicas = 1001", "replicas", "1001 is above 1000", "from 1 to 1000"),
        ("replicas = 1.5", "replicas", "1.5 is not a whole number", "from 1 to 1000"),
        ('replicas = "many"', "replicas", '"many" is not a whole number', "8182"),
        ('stop_signal = "TERM"', "stop_signal", '"TERM" is not a signal', 'did you mean "SIGTERM"?'),
        ('stop_signal = "term"', "stop_signal", '"term" is not a signal', 'did you mean "SIGTERM"?'),
        ('stop_signal = "SIGTREM"', "stop_signal", '"SIGTREM" is not a signal', 'did you mean "SIG'),
        ('stop_signal = "9999"', "stop_signal", '"9999" is not a signal', '"SIGTERM"'),
        ("stop_signal = 15", "stop_signal", "15 is not text", '"SIGTERM"'),
        ('stop_signal = "SIGSTOP"', "stop_signal", "SIGSTOP freezes", '"SIGTERM"'),
        ("graceful_stop = 60", "graceful_stop", "duration 60 has no unit", 'write "1m" for seconds'),
        ('graceful_stop = "forever"', "graceful_stop", '"forever" is not a duration', '"indefinite"'),
        ('graceful_stop = "indefinitely"', "graceful_stop", "is not a duration", '"indefinite"'),
        ("non_blocking_drain = 1", "non_blocking_drain", "1 is neither true nor false", "non_blocking_drain = true"),
        ('non_blocking_drain = "yes"', "non_blocking_drain", '"yes" is neither true nor false', "true or false"),
        ("output_lines = -1", "output_lines", "-1 is below 0", "from 0"),
        ("restart_delay = 1", "restart_delay", "duration 1 has no unit", 'write "1s"'),
        ("restart = false", "restart", "false is not a table", "max_restarts = 5"),
        ("restart = { max_restarts = -1 }", "restart.max_restarts", "-1 is below 0", "from 0"),
        ("restart = { backoff_factor = 0.5 }", "restart.backoff_factor", "0.5 is not from 1 to 1000", "from 1 to 1000"),
        ("restart = { backoff_factor = nan }", "restart.backoff_factor", "nan is not from 1", "from 1 to 1000"),
        ("restart = { backoff_factor = inf }", "restart.backoff_factor", "inf is not from 1", "from 1 to 1000"),
        ('restart = { backoff_factor = "x" }', "restart.backoff_factor", '"x" is not a number', "1.5"),
        ("restart = { backoff_factor = true }", "restart.backoff_factor", "true is not a number", "1.5"),
        ("restart = { max_restart = 1 }", "restart.max_restart", 'no setting "max_restart"', "max_restarts?"),
        ("memory = {}", "memory", "neither limit nor warn", 'limit = "512MiB"'),
        ('memory = { check_interval = "5s" }', "memory", "neither limit nor warn", 'limit = "512MiB"'),
        ('memory = "512MiB"', "memory", '"512MiB" is not a table', 'memory = { limit = "512MiB" }'),
        ("memory = { limit = 0 }", "memory.limit", "0 is below 1 bytes", '"512MiB"'),
        ('memory = { limit = "1MiB", check_interval = "0s" }', "memory.check_interval", "0 is too short", "more than"),
        ('memory = { limit = "1MiB", check_interval = "1ms" }', "memory.check_interval", "shorter than 100ms", '"5s"'),
        ("lifecycle = { quiet_command = 1 }", "lifecycle.quiet_command", "1 is not text", "quiet_command ="),
        ('lifecycle = { stop_command = "" }', "lifecycle.stop_command", "empty", "or remove the line"),
        ('lifecycle = { stop_command = ["a"] }', "lifecycle.stop_command", "an array is not text", "stop_command ="),
        ('lifecycle = { stop_command = "{{nope}}" }', "lifecycle.stop_command", "no placeholder", "use one of"),
        ('deploy_strategy = "handof"', "deploy_strategy", '"handof" is not one of', 'did you mean "handoff"?'),
        ("cgroup = 1", "cgroup", "1 is neither true nor false", "cgroup = true"),
        ("cgroup = false\npids_max = 7", "cgroup", "cgroup = false asks for none", "remove cgroup"),
        ("pids_max = 0", "pids_max", "0 is below 1", "from 1"),
        ("cpu_max = 0", "cpu_max", "0 is not from 0.01 to 1000", "from 0.01"),
        ('memory_max = "1KiB"', "memory_max", "below 1048576 bytes", '"1GiB"'),
        ('memory_max = "1GiB"\nmemory = { limit = "1GiB" }', "memory_max", "kernel would kill before", "above the"),
        ('kill_mode = "mixed"', "kill_mode", '"mixed" is not one of "tree", "group", "process"', "choose one of"),
        ("restart = { no_restart_codes = 1 }", "restart.no_restart_codes", "1 is not an array", "[0, 78]"),
        ("restart = { no_restart_codes = [256] }", "restart.no_restart_codes[0]", "256 is not an exit code", "[0, 78]"),
        ("restart = { no_restart_codes = [true] }", "restart.no_restart_codes[0]", "true is not an exit", "[0, 78]"),
        ('user = "a b"', "user", '"a b" is not a name or number of an account', '"deploy" or 1000'),
        ("user = true", "user", "true is not text", '"deploy"'),
        ("group = -1", "group", "-1 is below 0", "from 0"),
        ('supplementary_groups = "video"', "supplementary_groups", '"video" is not an array', '["video", "1000"]'),
        ('supplementary_groups = ["a b"]', "supplementary_groups[0]", '"a b" is not a name', '"deploy" or 1000'),
        ("supplementary_groups = [true]", "supplementary_groups[0]", "true is not a group", '["video", "1000"]'),
        ("umask = 22", "umask", "22 is a number, not octal text", 'umask = "022"'),
        ('umask = "8"', "umask", '"8" is not an octal umask', 'umask = "022"'),
        ('umask = "1777"', "umask", '"1777" is not an octal umask of at most 777', 'umask = "022"'),
        ("nice = 20", "nice", "20 is above 19", "from -20 to 19"),
        ("limits = 1", "limits", "1 is not a table", "nofile = 65536"),
        ("limits = { nofiles = 1 }", "limits.nofiles", 'no setting "nofiles"', "did you mean nofile?"),
        ("limits = { nofile = true }", "limits.nofile", "true is not a limit", '"unlimited"'),
        ('limits = { nofile = "64KiB" }', "limits.nofile", '"64KiB" is not a number', '"65536"'),
        ("limits = { nofile = -1 }", "limits.nofile", '"-1" is not a number', '"unlimited"'),
        ("limits = { nofile = 4294967296 }", "limits.nofile", "is above 2147483647", '"unlimited"'),
        ('limits = { nofile = "2:1" }', "limits.nofile", 'soft limit of "2:1" is above the hard one', '"1" for both'),
        ('limits = { nofile = "unlimited:1" }', "limits.nofile", "above the hard one", '"1" for both'),
        ('limits = { nofile = "1:2:3" }', "limits.nofile", "more than two parts", '"soft:hard"'),
        ('limits = { as = "1GB:x" }', "limits.as", '"x" is not a size', "512MiB"),
        ('limits = { as = "1G" }', "limits.as", "unknown unit G", '"1GiB"'),
        ('limits = { cpu = "500ms" }', "limits.cpu", "finer than a second", "round it"),
        ("env_file = 1", "env_file", "1 is neither text nor an array", 'env_file = "/etc/shop/secrets.env"'),
        ("env_file = [1]", "env_file", "1 is not text", "write text in quotes"),
        ('env_file = ""', "env_file", "empty", "or remove the line"),
        ('env_file = "secrets.env"', "env_file", '"secrets.env" is a relative path', '"{{release_path}}/secrets.env"'),
        ('env_file = ["/a", "{{nope}}/b"]', "env_file", "no placeholder", "use one of"),
        ("env_command = 1", "env_command", "1 is neither text nor an array", 'env_command = "print-secrets shop"'),
        ("env_command = []", "env_command", "does not name a program", '["print-secrets", "shop"]'),
        ('env_command = "x {{prot}}"', "env_command", 'no placeholder "{{prot}}"', "use one of"),
        ('env_command = { timeout = "1s" }', "env_command.command", "command is missing", "print-secrets"),
        ('env_command = { command = "x", timeout = "0s" }', "env_command.timeout", "0 is too short", "more than zero"),
        ("grace_stop = 1", "grace_stop", 'no setting "grace_stop"', "did you mean graceful_stop?"),
    ],
)  # fmt: skip
def test_wrong_setting_is_told_with_its_line_value_and_fix(setting: str, where: str, message: str, fix: str) -> None:
    issues = issues_of(f"{WEB}{WORKER}{setting}\n")
    issue = issues[0]
    assert issue.where == f"processes.worker.{where}"
    assert issue.line == 7
    assert message in issue.message
    assert fix in issue.fix
    assert len(issues) == (2 if setting.startswith("deploy_strategy") else 1)


@pytest.mark.parametrize(
    ("command", "where", "message"),
    [
        ("", "command", "command is missing"),
        ('command = ""', "command", "empty"),
        ('command = "  "', "command", "empty"),
        ("command = 1", "command", "1 is neither text nor an array"),
        ("command = []", "command", "does not name a program"),
        ('command = ["", "x"]', "command", "does not name a program"),
        ('command = ["x", 1]', "command[1]", "1 is not text"),
        ('command = ["x", "{{nope}}"]', "command[1]", "no placeholder"),
        ('command = "x {{port}}"', "command", "{{port}} has no value: job has no port"),
        ('command = "x {{ports.job}}"', "command", "{{ports.job}} has no value: job has no port"),
        ('command = "x {{ports.wev}}"', "command", 'no placeholder "{{ports.wev}}"'),
        ('command = "x \\u0000"', "command", "NUL"),
    ],
)
def test_wrong_command_is_told(command: str, where: str, message: str) -> None:
    issue = issue_of(f"{WEB}[processes.job]\n{command}\n")
    assert issue.where == f"processes.job.{where}"
    assert message in issue.message


@pytest.mark.parametrize(
    ("health", "where", "message"),
    [
        ("true", "health", "true is neither a table nor false"),
        ('"/ping"', "health", '"/ping" is neither a table nor false'),
        ('{ path = "ping" }', "health.path", "does not begin with /"),
        ('{ interval = "0s" }', "health.interval", "0 is too short"),
        ('{ timeout = "0s" }', "health.timeout", "0 is too short"),
        ("{ start_delay = 1 }", "health.start_delay", "no unit"),
        ("{ timout = 1 }", "health.timout", "no setting"),
    ],
)
def test_wrong_health_is_told(health: str, where: str, message: str) -> None:
    issue = issue_of(f"{WEB}health = {health}\n")
    assert issue.where == f"processes.web.{where}"
    assert message in issue.message


def test_templates_may_name_everything_that_a_start_knows() -> None:
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
        "ports.db",
        "proxy.host",
        "proxy.port",
        "proxy.upstream_host",
        "env.HOME",
        "env.NONE:-x",
    ]
    command = " ".join(f"{{{{{name}}}}}" for name in names)
    service = '[processes.db]\npolicy = "service"\ncommand = "db"\nport = 7331\n'
    assert issues_of(WEB.replace('"serve"', f'"{command}"') + service, {"HOME": "/h"}) == []
