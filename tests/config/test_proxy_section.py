from __future__ import annotations

from dataclasses import asdict
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest

from rollbridge.config.model import ProxyConfig
from tests.config.reading import WEB, issue_of, parse


def proxy(settings: str, environ: dict[str, str] | None = None) -> ProxyConfig:
    return parse(f"[proxy]\n{settings}\n{WEB}", environ).proxy


def test_proxy_defaults() -> None:
    assert asdict(parse(WEB).proxy) == {
        "host": "127.0.0.1",
        "port": 8182,
        "upstream_host": "127.0.0.1",
        "health_path": "/ping",
        "health_timeout_seconds": 30.0,
        "drain_timeout_seconds": 60.0,
        "force_stop_timeout_seconds": 10.0,
        "workers": 1,
        "hold_timeout_seconds": 5.0,
        "head_timeout_seconds": 10.0,
        "idle_timeout_seconds": 75.0,
        "response_timeout_seconds": 0.0,
        "max_head_bytes": 65536,
        "max_connections": 10000,
        "trusted_proxies": (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")),
        "access_log": None,
    }


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ('host = "0.0.0.0"', "host", "0.0.0.0"),
        ('host = "localhost"', "host", "localhost"),
        ('host = "::1"', "host", "::1"),
        ('host = "0:0:0:0:0:0:0:1"', "host", "::1"),
        ('host = "web-1.internal.example"', "host", "web-1.internal.example"),
        ("port = 1", "port", 1),
        ("port = 65535", "port", 65535),
        ('port = "{{env.PORT:-9000}}"', "port", 9000),
        ('health_path = "/health?deep=1"', "health_path", "/health?deep=1"),
        ('health_path = "/{{application}}"', "health_path", "/shop"),
        ('health_timeout = "1m"', "health_timeout_seconds", 60.0),
        ('drain_timeout = "0s"', "drain_timeout_seconds", 0.0),
        ('drain_timeout = "{{env.DRAIN:-90s}}"', "drain_timeout_seconds", 90.0),
        ('force_stop_timeout = "0s"', "force_stop_timeout_seconds", 0.0),
        ("workers = 4", "workers", 4),
        ('workers = "auto"', "workers", None),
        ('workers = "{{env.WORKERS:-2}}"', "workers", 2),
        ('workers = "{{env.WORKERS:-auto}}"', "workers", None),
        ('hold_timeout = "0s"', "hold_timeout_seconds", 0.0),
        ('head_timeout = "1ms"', "head_timeout_seconds", 0.001),
        ('idle_timeout = "1s"', "idle_timeout_seconds", 1.0),
        ('response_timeout = "2m"', "response_timeout_seconds", 120.0),
        ('max_head = "16KiB"', "max_head_bytes", 16384),
        ("max_head = 1024", "max_head_bytes", 1024),
        ("max_connections = 1", "max_connections", 1),
        ("trusted_proxies = []", "trusted_proxies", ()),
        ('trusted_proxies = ["10.0.0.5"]', "trusted_proxies", (IPv4Network("10.0.0.5/32"),)),
        ('access_log = "access.log"', "access_log", "/srv/shop/access.log"),
    ],
)
def test_setting_is_read(setting: str, name: str, value: Any) -> None:
    assert getattr(proxy(setting), name) == value


@pytest.mark.parametrize(
    ("host", "upstream"), [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("10.0.0.5", "10.0.0.5"), ("::1", "::1")]
)
def test_upstreams_are_by_default_where_the_proxy_is_or_local_for_a_wildcard(host: str, upstream: str) -> None:
    assert proxy(f'host = "{host}"').upstream_host == upstream


@pytest.mark.parametrize(
    ("setting", "message", "fix"),
    [
        ('host = "127.0.0.1:80"', '"127.0.0.1:80" is an address with a port', 'write "127.0.0.1", and port = 80'),
        ('host = "[::1]"', "in brackets", 'write "::1"'),
        ('host = "*"', '"*" is not an address', '"0.0.0.0"'),
        ('host = "256.1.1.1"', "neither an IP address nor a host name", '"127.0.0.1"'),
        ('host = "a b"', "neither an IP address nor a host name", '"127.0.0.1"'),
        ('host = "a_b;reboot"', "neither an IP address nor a host name", '"127.0.0.1"'),
        ('host = "fe80::1%$(x)"', "neither an IP address nor a host name", '"127.0.0.1"'),
        ("host = 1", "1 is not text", 'host = "127.0.0.1"'),
        ('host = ""', "empty", "or remove the line"),
        ('upstream_host = "0.0.0.0"', "an address to listen on", '"127.0.0.1"'),
        ("port = 0", "0 is below 1", "from 1 to 65535"),
        ("port = 65536", "65536 is above 65535", "from 1 to 65535"),
        ("port = 80800", "80800 is above 65535", "from 1 to 65535"),
        ("port = -1", "-1 is below 1", "from 1 to 65535"),
        ("port = true", "true is not a whole number", "from 1 to 65535"),
        ("port = 80.5", "80.5 is not a whole number", "from 1 to 65535"),
        ("port = nan", "nan is not a whole number", "from 1 to 65535"),
        ("port = inf", "inf is not a whole number", "from 1 to 65535"),
        ("port = 0x" + "f" * 10_000, "a very large number is above 65535", "from 1 to 65535"),
        ("port = 1979-05-27", "the date or time 1979-05-27 is not a whole number", "from 1 to 65535"),
        ('port = "http"', '"http" is not a whole number', "8182"),
        ('port = "{{env.PORT}}"', "the environment variable PORT is not set", "{{env.PORT:-value}}"),
        ('port = "{{env.PORT:-no}}"', '"no" is not a whole number', "8182"),
        ('health_path = "ping"', 'does not begin with /', '"/ping"'),
        ('health_path = "/a b"', "blanks", "percent-encode"),
        ('health_path = "/a\\r\\nHost: x"', "other characters", "percent-encode"),
        ('health_path = "/a#b"', "'#'", "percent-encode"),
        ("health_timeout = 30", "duration 30 has no unit", 'write "30s" for seconds'),
        ("health_timeout = 0.25", "duration 0.25 has no unit", 'write "250ms" for seconds'),
        ('health_timeout = "30"', 'duration "30" has no unit', 'write "30s" for seconds'),
        ('health_timeout = "0s"', "0 is too short", "more than zero"),
        ('head_timeout = "0ms"', "0 is too short", "more than zero"),
        ('idle_timeout = "0s"', "0 is too short", "more than zero"),
        ("drain_timeout = -5", "duration -5 has no unit", '"30s"'),
        ("drain_timeout = true", "true is not a duration", '"30s"'),
        ("drain_timeout = nan", "duration nan has no unit", '"30s"'),
        ('drain_timeout = "soon"', '"soon" is not a duration', '"1h30m"'),
        ("workers = 0", "0 is below 1", "1 to 256"),
        ("workers = 257", "257 is above 256", "1 to 256"),
        ('workers = "atuo"', '"atuo" is neither', '"auto"'),
        ("workers = true", "true is not a whole number", "1 to 256"),
        ('max_head = "1KB"', '"1KB" is below 1024 bytes', '"64KiB"'),
        ('max_head = "1GiB"', '"1GiB" is above 16777216 bytes', '"64KiB"'),
        ('max_head = "64K"', "unknown unit K", 'write "64KiB"'),
        ("max_head = 1.5", "1.5 is not a size", '"64KiB"'),
        ("max_head = true", "true is not a size", '"64KiB"'),
        ("max_connections = 0", "0 is below 1", "from 1"),
        ('trusted_proxies = "10.0.0.0/8"', "is not an array", '["127.0.0.0/8", "::1/128"]'),
        ('trusted_proxies = ["10.0.0.1/8"]', "bits set beyond its prefix", 'write "10.0.0.0/8" for the whole network'),
        ('trusted_proxies = ["proxy"]', '"proxy" is not a network', '"10.0.0.0/8"'),
        ("trusted_proxies = [1]", "1 is not text", '["127.0.0.0/8", "::1/128"]'),
        ('access_log = "~/x"', "~", "{{env.HOME}}"),
        ('access_log = "\\u0000"', "NUL", "remove"),
        ("prot = 1", 'no setting "prot"', "did you mean port?"),
        ("drain-timeout = 1", 'no setting "drain-timeout"', "did you mean drain_timeout?"),
    ],
)  # fmt: skip
def test_wrong_setting_is_told_with_its_line_value_and_fix(setting: str, message: str, fix: str) -> None:
    issue = issue_of(f"[proxy]\n{setting}\n{WEB}")
    assert issue.where.startswith(f"proxy.{setting.split(' ')[0]}")
    assert issue.line == 2
    assert message in issue.message
    assert fix in issue.fix


def test_wrong_networks_keep_their_positions() -> None:
    config = '[proxy]\ntrusted_proxies = [\n  1,\n  "10.0.0.0/8",\n  "10.0.0.1/8",\n]\n' + WEB
    with pytest.raises(Exception) as caught:
        parse(config)
    assert [(issue.where, issue.line) for issue in caught.value.issues] == [  # type: ignore[attr-defined]
        ("proxy.trusted_proxies[0]", 3),
        ("proxy.trusted_proxies[2]", 5),
    ]


def test_unknown_key_far_from_any_lists_what_there_is() -> None:
    issue = issue_of(f"[proxy]\nzzz = 1\n{WEB}")
    assert issue.fix.startswith("remove it; proxy can have access_log, drain_timeout, force_stop_timeout")


def test_proxy_that_is_no_table_is_told() -> None:
    issue = issue_of(f"proxy = 8182\n{WEB}")
    assert (issue.where, issue.message, issue.line) == ("proxy", "8182 is not a table", 1)
