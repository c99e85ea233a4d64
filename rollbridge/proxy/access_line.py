"""One line of the access log: a request that is over, as JSON."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Sequence
from typing import Final, TypeAlias

from rollbridge.proxy.fields import Field

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

NO_UPSTREAM: Final = '"release":null,"upstream":null'


# Method, target and whether it is HTTP/1.1; None: no request could be read.
Asked: TypeAlias = tuple[bytes, bytes, bool] | None


def access_line(
    at: str,
    client: str,
    asked: Asked,
    status: int | None,
    request_bytes: int,
    response_bytes: int,
    upstream: str,
    first_byte_seconds: float | None,
    seconds: float,
    is_complete: bool,
) -> str:
    """Return the line; ``upstream`` is what ``upstream_members`` returns."""
    # One f-string of text: by far the cheapest way to write JSON of which nothing has to be quoted any more. The head's
    # grammar lets visible ASCII through, and no quotes in a method.
    if asked is None:
        request = '"method":null,"target":null,"protocol":null'
    else:
        method, raw_target, is_http11 = asked
        target = raw_target.decode("ascii")
        if '"' in target or "\\" in target:
            target = target.replace("\\", "\\\\").replace('"', '\\"')
        version = "1.1" if is_http11 else "1.0"
        request = f'"method":"{method.decode("ascii")}","target":"{target}","protocol":"HTTP/{version}"'
    total = f"{seconds:.6f}"
    if first_byte_seconds is None:
        first = "null"
    else:
        first = total if first_byte_seconds == seconds else f"{first_byte_seconds:.6f}"
    return (
        f'{{"at":"{at}","client":"{client}",{request},"status":{"null" if status is None else status},'
        f'"request_bytes":{request_bytes},"response_bytes":{response_bytes},{upstream},'
        f'"first_byte_seconds":{first},"seconds":{total},"complete":{"true" if is_complete else "false"}}}\n'
    )


def upstream_members(release_key: str, address: tuple[str, int]) -> str:
    """Which release and which of its upstreams, as members of the line's object."""
    host, port = address
    upstream = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f'"release":{json.dumps(release_key)},"upstream":{json.dumps(upstream)}'


def utc(seconds: int) -> str:
    """``seconds`` since 1970 as "2026-01-31T23:59:59"."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def real_client(peer: bytes, forwarded: Sequence[Field], trusted: Sequence[Network]) -> str:
    """The address of the client behind a trusted ``peer``: the last of X-Forwarded-For that is no trusted proxy.

    With nothing but trusted ones it is the first. What is no address ends the search: the proxy that wrote it is as
    far as we can see.
    """
    chain = [item.strip() for name, value in forwarded if name == b"x-forwarded-for" for item in value.split(b",")]
    client = peer.decode("ascii")
    for item in reversed(chain):
        try:
            address = ipaddress.ip_address(item.decode())
        except ValueError:
            break
        client = str(address).partition("%")[0]
        if not any(address in network for network in trusted):
            break
    return client
