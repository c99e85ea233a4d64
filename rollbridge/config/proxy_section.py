"""Reads ``[proxy]``."""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Network, IPv6Network

from rollbridge.config.issues import BadValue
from rollbridge.config.model import ProxyConfig
from rollbridge.config.reach import absolute_path
from rollbridge.config.reader import Table
from rollbridge.config.showing import show_text
from rollbridge.config.values import duration, items, size

_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*\.?")
# Numbers and dots alone are a mistyped address, never a name (RFC 1123, section 2.1).
_NUMBERS = re.compile(r"[0-9.]+")
_ADDRESS_CHARACTERS = re.compile(r"[0-9A-Fa-f.:]+(%[A-Za-z0-9_.-]{1,15})?")
_HEALTH_PATH = re.compile(r"/[!-~]{0,1023}")
_WILDCARDS = ("0.0.0.0", "::")
_TRUSTED_BY_DEFAULT = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

KIB = 1024
# Below this, the request heads of ordinary browsers would be refused; above, a few thousand slow
# clients could hold all memory.
_SMALLEST_HEAD, _LARGEST_HEAD = 1 * KIB, 16 * KIB * KIB
MOST_WORKERS = 256


def read_proxy(table: Table, directory: str) -> ProxyConfig:
    """Read ``[proxy]``; ``directory`` is that of the config file."""
    host = table.parsed("host", "127.0.0.1", "127.0.0.1", _host)
    proxy = ProxyConfig(
        host=host,
        port=table.integer("port", 8182, 1, 65535),
        upstream_host=table.parsed(
            "upstream_host", "127.0.0.1" if host in _WILDCARDS else host, "127.0.0.1", _upstream_host
        ),
        health_path=table.parsed("health_path", "/ping", "/ping", health_path),
        health_timeout_seconds=duration(table, "health_timeout", 30, is_positive=True),
        drain_timeout_seconds=duration(table, "drain_timeout", 60),
        force_stop_timeout_seconds=duration(table, "force_stop_timeout", 10),
        workers=_read_workers(table),
        hold_timeout_seconds=duration(table, "hold_timeout", 5),
        head_timeout_seconds=duration(table, "head_timeout", 10, is_positive=True),
        idle_timeout_seconds=duration(table, "idle_timeout", 75, is_positive=True),
        response_timeout_seconds=duration(table, "response_timeout", 0),
        max_head_bytes=size(table, "max_head", 64 * KIB, _SMALLEST_HEAD, _LARGEST_HEAD, "64KiB"),
        max_connections=table.integer("max_connections", 10_000, 1, 1_000_000),
        trusted_proxies=_read_trusted_proxies(table),
        access_log=_read_access_log(table, directory),
    )
    table.finish()
    return proxy


def health_path(text: str) -> str:
    """Check the target of a health request; raise BadValue."""
    if not text.startswith("/"):
        raise BadValue(f"{show_text(text)} does not begin with /", f"write {show_text('/' + text.strip(), 40)}")
    if not _HEALTH_PATH.fullmatch(text) or "#" in text:
        raise BadValue(
            f"{show_text(text)} has blanks, '#' or other characters that a request line cannot hold",
            'percent-encode them: "/health%20check"',
        )
    return text


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        raise BadValue(f"{show_text(text)} is an address in brackets", f"write {show_text(text[1:-1])}")
    try:
        if _ADDRESS_CHARACTERS.fullmatch(text):
            return str(ipaddress.ip_address(text))
    except ValueError:
        # 127.0.0.1:8182, the commonest of mistakes, has the characters of an address too.
        address, colon, port = text.rpartition(":")
        if colon and "." in address:
            raise BadValue(
                f"{show_text(text)} is an address with a port", f"write {show_text(address)}, and port = {port}"
            ) from None
    if text == "*":
        raise BadValue('"*" is not an address', 'write "0.0.0.0" for every IPv4 address, "::" for every address')
    if not _HOST_NAME.fullmatch(text) or _NUMBERS.fullmatch(text):
        raise BadValue(
            f"{show_text(text)} is neither an IP address nor a host name",
            'write for example "127.0.0.1" or "localhost"',
        )
    return text


def _upstream_host(text: str) -> str:
    host = _host(text)
    if host in _WILDCARDS:
        raise BadValue(
            f"{show_text(text)} is an address to listen on, not one to connect to",
            'write "127.0.0.1", where the processes listen',
        )
    return host


def _read_access_log(table: Table, directory: str) -> str | None:
    return table.parsed(
        "access_log", None, "/var/log/rollbridge/access.log", lambda text: absolute_path(text, directory)
    )


def _read_workers(table: Table) -> int | None:
    value = table.raw("workers")
    if isinstance(value, str):
        return table.parsed("workers", 1, "auto", _workers)
    return table.integer("workers", 1, 1, MOST_WORKERS)


def _workers(text: str) -> int | None:
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= MOST_WORKERS):
        raise BadValue(
            f'{show_text(text)} is neither a number from 1 to {MOST_WORKERS} nor "auto"',
            'write workers = 2, or workers = "auto" for one per core',
        )
    return int(text)


def _read_trusted_proxies(table: Table) -> tuple[IPv4Network | IPv6Network, ...]:
    networks = items(table, "trusted_proxies", '["127.0.0.0/8", "::1/128"]', _network)
    return networks if table.has("trusted_proxies") else _TRUSTED_BY_DEFAULT


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise BadValue(
            f"{show_text(text)} is not a network", 'write an address or a network: "10.0.0.5" or "10.0.0.0/8"'
        ) from None
    raise BadValue(f"{show_text(text)} has bits set beyond its prefix", f'write "{network}" for the whole network')
