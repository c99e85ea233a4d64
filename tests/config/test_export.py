from __future__ import annotations

import signal
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rollbridge.config.export import to_toml
from rollbridge.config.model import (
    Config,
    ControlConfig,
    DeployStrategy,
    EnvCommand,
    GroupLimits,
    HealthConfig,
    KillMode,
    LegacyProcess,
    LegacyTakeoverConfig,
    LifecycleConfig,
    Limit,
    MemoryConfig,
    Permissions,
    Policy,
    PortRange,
    ProcessConfig,
    ProxyConfig,
    RestartConfig,
    RetentionConfig,
)
from rollbridge.config.parse import parse_config
from tests.config.reading import SOURCE_PATH, WEB, parse
from tests.config.test_parse import WHOLE

# Never NUL and never blank: those are refused. Many braces, quotes and line ends: those are where writing goes wrong.
TEXT = st.text(st.sampled_from("{}ab.$ '\"\\\n\t\x1b\x7fé版#[]=%"), min_size=1, max_size=12).filter(str.strip)
PATH = TEXT.map(lambda text: "/" + text.strip("/ \n\t").replace("/", "_") + "x")
SECONDS = st.integers(0, 3650 * 86_400_000).map(lambda milliseconds: milliseconds / 1000)
POSITIVE_SECONDS = SECONDS.map(lambda seconds: seconds or 0.5)
NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True)
PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=10)
TEMPLATE = st.lists(
    st.sampled_from(
        ["{{release_path}}", "{{env.HOME}}", "{{env.NO:-x}}", "{{{{", "}}", "{", "a", " ", "'", '"', "\n", "\\"]
    ),
    min_size=1,
    max_size=6,
).map(lambda parts: "run " + " ".join(parts))
HEALTH = st.builds(HealthConfig, PRINTABLE.map("/{}".format), POSITIVE_SECONDS, POSITIVE_SECONDS, SECONDS)

ACCOUNT = st.none() | st.sampled_from(["deploy", "1000", "www-data"])
LIMIT = st.builds(Limit, st.integers(0, 1000), st.none() | st.integers(1000, 2**31 - 1)) | st.just(Limit(None, None))
CORES = st.none() | st.floats(0.01, 1000)
PERMISSIONS = st.builds(
    Permissions,
    ACCOUNT,
    ACCOUNT,
    st.none() | st.lists(st.sampled_from(["video", "7"]), max_size=2).map(tuple),
    st.none() | st.integers(0, 0o777),
    st.none() | st.integers(-20, 19),
    st.dictionaries(st.sampled_from(["nofile", "as", "cpu", "core"]), LIMIT, max_size=3),
)


@st.composite
def processes(draw: st.DrawFn) -> dict[str, ProcessConfig]:
    ids = draw(st.lists(NAME, min_size=1, max_size=4, unique_by=lambda name: name.upper().replace("-", "_")))
    found = {}
    for number, process_id in enumerate(ids):
        policy = (
            Policy.PROXIED if number == 0 else draw(st.sampled_from([one for one in Policy if one != Policy.PROXIED]))
        )
        first = 20_000 + 1000 * number
        ranges = st.builds(PortRange, st.just(first), st.integers(first + 8, first + 100))
        is_handoff = policy is Policy.SERVICE and draw(st.booleans())
        if policy is Policy.PROXIED or is_handoff:
            port: PortRange | None = draw(ranges)
        else:
            port = draw(st.none() | ranges | st.just(PortRange(first, first)))
        stop_command = draw(st.none() | TEMPLATE)
        drain_timeout = draw(SECONDS)
        limit = draw(st.none() | st.integers(2, 2**53))
        memory = st.builds(
            MemoryConfig,
            st.just(limit),
            st.integers(1, (limit or 2**53) - 1) if limit is None else st.none() | st.integers(1, limit - 1),
            POSITIVE_SECONDS.filter(lambda seconds: seconds >= 0.1),
        )
        memory_max = st.none() | st.integers(max(2**20, (limit or 0) + 1), 2**53) if limit != 2**53 else st.none()
        can_replicate = policy is Policy.PROXIED or (policy is Policy.COMPANION and port is None)
        found[process_id] = ProcessConfig(
            id=process_id,
            policy=policy,
            command=draw(TEMPLATE | st.lists(TEMPLATE | st.just(""), max_size=3).map(lambda words: ("run", *words))),
            cwd=draw(st.just("{{release_path}}") | TEMPLATE.map(lambda text: f"/{text}")),
            env=draw(st.dictionaries(TEXT.filter(lambda name: "=" not in name), TEMPLATE | st.just(""), max_size=3)),
            port=port,
            health=draw(st.none() | HEALTH) if policy is Policy.PROXIED else None,
            replicas=draw(st.integers(1, 4)) if can_replicate else 1,
            stop_signal=15 if stop_command else draw(st.sampled_from([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])),
            graceful_stop_seconds=draw(st.none() | SECONDS),
            non_blocking_drain=policy is Policy.COMPANION and draw(st.booleans()),
            output_lines=draw(st.integers(0, 10_000)),
            restart_delay_seconds=draw(SECONDS),
            restart=RestartConfig(
                draw(st.none() | st.integers(0, 1_000_000)),
                draw(SECONDS),
                draw(st.floats(1, 1000)),
                draw(SECONDS),
                draw(st.lists(st.integers(0, 255), unique=True, max_size=3).map(tuple)),
            ),
            memory=draw(st.none() | memory),
            lifecycle=LifecycleConfig(
                draw(st.none() | TEMPLATE),
                draw(st.none() | TEMPLATE) if drain_timeout else None,
                stop_command,
                drain_timeout,
            ),
            deploy_strategy=DeployStrategy.HANDOFF if is_handoff else DeployStrategy.PERSISTENT,
            env_file=draw(st.lists(TEMPLATE.map(lambda text: f"/{text}?"), max_size=2).map(tuple)),
            permissions=draw(PERMISSIONS),
            cgroup=draw(st.none() | st.builds(GroupLimits, memory_max, CORES, st.none() | st.integers(1, 10**6))),
            kill_mode=draw(st.sampled_from(KillMode)),
            env_command=draw(
                st.none() | st.builds(EnvCommand, TEMPLATE | st.just(("run", "{{port}}")), POSITIVE_SECONDS)
            )
            if port
            else None,
        )
    return found


@st.composite
def configs(draw: st.DrawFn) -> Config:
    host = draw(st.sampled_from(["127.0.0.1", "0.0.0.0", "::", "::1", "localhost", "web.example"]))
    networks: Any = st.sampled_from(["10.0.0.0/8", "::1/128", "fd00::/8", "1.2.3.4/32"]).map(ip_network)
    account = st.none() | st.sampled_from(["deploy", "1000", "www-data"])
    legacy = st.builds(
        LegacyTakeoverConfig,
        st.lists(TEXT, max_size=2).map(tuple),
        st.lists(st.builds(LegacyProcess, TEXT, st.lists(TEXT, min_size=1, max_size=2).map(tuple)), max_size=2).map(
            tuple
        ),
        SECONDS,
        pid_files=st.lists(PATH, max_size=2).map(tuple),
        systemd_units=st.lists(st.sampled_from(["old.service", "old@1"]), max_size=2).map(tuple),
        supervisord_programs=st.lists(st.sampled_from(["old", "old:*", "{{x}}"]), max_size=2).map(tuple),
        pm2_apps=st.lists(st.sampled_from(["old", "{{x}}"]), max_size=2).map(tuple),
        commands=st.lists(TEXT, max_size=2).map(tuple),
    )
    return Config(
        source_path=SOURCE_PATH,
        application=draw(NAME),
        runtime_dir=draw(PATH),
        state_path=draw(PATH),
        control=ControlConfig(draw(PATH), draw(st.sampled_from([0o600, 0o660])), draw(account), draw(account)),
        proxy=ProxyConfig(
            host,
            draw(st.integers(1, 19_999)),
            draw(st.sampled_from(["127.0.0.1", "::1", "localhost"])),
            "/" + draw(PRINTABLE),
            draw(POSITIVE_SECONDS),
            draw(SECONDS),
            draw(SECONDS),
            draw(st.none() | st.integers(1, 256)),
            draw(SECONDS),
            draw(POSITIVE_SECONDS),
            draw(POSITIVE_SECONDS),
            draw(SECONDS),
            draw(st.integers(1024, 16 * 2**20)),
            draw(st.integers(1, 1_000_000)),
            tuple(draw(st.lists(networks, max_size=3))),
            draw(st.none() | PATH),
        ),
        release_retention=RetentionConfig(draw(st.integers(0, 10_000)), draw(SECONDS)),
        processes=draw(processes()),
        legacy_takeover=draw(st.none() | legacy),
    )


@given(configs())
@settings(max_examples=60, deadline=None)
def test_every_config_survives_being_written_and_read(config: Config) -> None:
    text = to_toml(config)
    read = parse_config(text.encode(), "/elsewhere/x.toml", {"HOME": "/home/deploy"}, uid=1000)
    assert replace(read, source_path=SOURCE_PATH) == config
    assert list(read.processes) == list(config.processes)
    assert to_toml(read) == text


def test_written_config_needs_neither_its_place_nor_its_environment() -> None:
    config = parse(WHOLE, {"PORT": "9000", "XDG_RUNTIME_DIR": "/run/user/1000"})
    assert config.proxy.port == 9000
    read = parse_config(to_toml(config).encode(), "/other/x.toml", {"PORT": "1"}, uid=0)
    assert replace(read, source_path=SOURCE_PATH) == config


def test_braces_that_came_from_a_value_are_not_expanded_again() -> None:
    config = parse(f'state_path = "/x/{{{{env.ODD}}}}"\n{WEB}', {"ODD": "{{env.HOME}}"})
    assert config.state_path == "/x/{{env.HOME}}"
    assert parse(to_toml(config), {"HOME": "/h"}).state_path == "/x/{{env.HOME}}"
