from __future__ import annotations

import ipaddress
import json

import pytest

from rollbridge.proxy.access_line import (
    NO_UPSTREAM,
    access_line,
    real_client,
    upstream_members,
    utc,
)
from rollbridge.proxy.head import parse_request_head

TRUSTED = [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")]


def test_a_line_is_one_object_with_every_member() -> None:
    line = access_line(
        utc(1767225599) + ".120Z",
        "192.0.2.7",
        (b"GET", b"/a?b", True),
        200,
        3,
        12,
        upstream_members("r1#2", ("127.0.0.1", 18182)),
        0.0015,
        0.25,
        True,
    )
    assert line.count("\n") == 1
    assert json.loads(line) == {
        "at": "2025-12-31T23:59:59.120Z",
        "client": "192.0.2.7",
        "method": "GET",
        "target": "/a?b",
        "protocol": "HTTP/1.1",
        "status": 200,
        "request_bytes": 3,
        "response_bytes": 12,
        "release": "r1#2",
        "upstream": "127.0.0.1:18182",
        "first_byte_seconds": 0.0015,
        "seconds": 0.25,
        "complete": True,
    }


def test_what_is_not_known_is_null() -> None:
    line = json.loads(access_line("", "", None, None, 0, 0, NO_UPSTREAM, None, 1, False))
    unknown = {name for name, value in line.items() if value is None}
    assert unknown == {"method", "target", "protocol", "status", "release", "upstream", "first_byte_seconds"}


@pytest.mark.parametrize("target", [b'/"', b"/\\", b'/\\"\\', b'/","status":200,"x":"', b"/\\u0041", b"/%22"])
def test_no_target_can_write_members_of_its_own(target: bytes) -> None:
    head = parse_request_head(b"GET " + target + b" HTTP/1.0\r\n\r\n")
    line = json.loads(
        access_line("", "", (head.method, head.target, head.is_http11), 200, 0, 0, NO_UPSTREAM, 0, 0, True)
    )
    assert (line["target"], line["protocol"], line["status"]) == (target.decode(), "HTTP/1.0", 200)


def test_names_of_releases_and_addresses_are_quoted() -> None:
    assert json.loads("{" + upstream_members('a"\\', ("::1", 80)) + "}") == {
        "release": 'a"\\',
        "upstream": "[::1]:80",
    }


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ([b"192.0.2.1"], "192.0.2.1"),
        ([b"192.0.2.1, 10.0.0.1"], "192.0.2.1"),
        ([b"192.0.2.9, 192.0.2.1, 10.0.0.1"], "192.0.2.1"),  # what stands left of it is hearsay
        ([b"192.0.2.1", b"10.0.0.1,10.0.0.2"], "192.0.2.1"),
        ([b"10.0.0.3, 10.0.0.1"], "10.0.0.3"),
        ([b"2001:db8::1"], "2001:db8::1"),
        ([b"nonsense"], "127.0.0.1"),
        ([b"192.0.2.1, unknown, 10.0.0.1"], "10.0.0.1"),
        ([b""], "127.0.0.1"),
        ([b'\xff"\\'], "127.0.0.1"),
        ([], "127.0.0.1"),
    ],
)
def test_the_client_is_the_last_that_is_no_trusted_proxy(chain: list[bytes], client: str) -> None:
    fields = [(b"x-forwarded-for", value) for value in chain] + [(b"x-forwarded-proto", b"192.0.2.99")]
    assert real_client(b"127.0.0.1", fields, TRUSTED) == client
