from __future__ import annotations

import pytest

from rollbridge.config.reload import restart_only_changes
from tests.config.reading import SOURCE_PATH, WEB, parse

OLD = (
    'application = "shop"\n[proxy]\nport = 8182\n'
    + WEB
    + '[processes.db]\npolicy = "service"\ncommand = "db"\nport = "7000-7009"\n'
)


def changes(old: str, new: str) -> tuple[str, ...]:
    return restart_only_changes(parse(old), parse(new))


def test_the_same_config_may_be_adopted() -> None:
    assert changes(OLD, OLD) == ()
    assert restart_only_changes(parse(OLD), parse(OLD, path=SOURCE_PATH.replace("shop", "other"))) == ()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('application = "shop"', 'application = "s"\nruntime_dir = "/r"\nstate_path = "/s"\ncontrol.path = "/c"',
         ("application", "runtime_dir", "state_path", "control.path")),
        ('application = "shop"', 'application = "shop"\nruntime_dir = "/r"', ("runtime_dir", "state_path")),
        ('application = "shop"', 'application = "shop"\nstate_path = "/s"', ("state_path",)),
        ('application = "shop"', 'application = "shop"\ncontrol = { path = "/c", mode = "660", owner = 1, group = 1 }',
         ("control.path", "control.mode", "control.owner", "control.group")),
        ("port = 8182", "port = 8183", ("proxy.port",)),
        ("port = 8182", 'port = 8182\nhost = "0.0.0.0"', ("proxy.host",)),
        ("port = 8182", "port = 8182\nworkers = 2", ("proxy.workers",)),
        ("[processes.db]", "[processes.database]", ("processes.db", "processes.database")),
        ('policy = "service"', 'policy = "companion"', ("processes.db.policy",)),
        ('policy = "service"', 'policy = "service"\ndeploy_strategy = "handoff"', ("processes.db.deploy_strategy",)),
        ('"7000-7009"', '"7000-7008"', ("processes.db.port",)),
        ('"7000-7009"', "7000", ("processes.db.port",)),
        ('command = "serve"', 'command = "serve"\nreplicas = 2', ("processes.web.replicas",)),
    ],
)  # fmt: skip
def test_what_a_daemon_cannot_follow_is_named(old: str, new: str, expected: tuple[str, ...]) -> None:
    assert old in OLD
    assert changes(OLD, OLD.replace(old, new)) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('command = "serve"', 'command = ["serve", "--now"]'),
        ('command = "serve"', 'command = "serve"\ncwd = "/x"\nenv = { A = "1" }\nhealth = false'),
        ('command = "serve"', 'command = "serve"\ngraceful_stop = "1s"\nstop_signal = "SIGINT"\noutput_lines = 1'),
        ('command = "serve"', 'command = "serve"\nrestart_delay = "2s"\nmemory = { limit = "1GiB" }'),
        ("port = 8182", 'port = 8182\ndrain_timeout = "1s"\nhealth_path = "/up"\nmax_head = "8KiB"\naccess_log = "/l"'),
        ("port = 8182", 'port = 8182\nupstream_host = "localhost"\ntrusted_proxies = []'),
        ('application = "shop"', 'application = "shop"\nrelease_retention.keep = 1\nlegacy_takeover.screens = ["a"]'),
    ],
)
def test_everything_else_may_be_adopted(old: str, new: str) -> None:
    assert old in OLD
    assert changes(OLD, OLD.replace(old, new)) == ()
