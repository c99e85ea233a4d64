"""What the supervisor and a proxy worker say to each other: one JSON object a line, both ways.

The same lines travel over the inherited socketpair and over the worker's private Unix socket. Unknown fields of a
message are ignored, so that a newer peer may say more; unknown messages and wrong types are refused.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, TypeAlias, TypeVar

PROTOCOL: Final = 1

# A route of 200 releases with 20 upstreams each stays below 512 KiB; a longer line is not one of ours.
MAX_LINE_BYTES: Final = 1024 * 1024


class BadMessage(ValueError):
    """A line that is not a message of this protocol; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Supervisor: first on a link; answered with Welcome. Over the private socket it takes the worker over."""

    protocol: int = PROTOCOL
    want_listener: bool = False  # send a duplicate of the listening socket along with Welcome (SCM_RIGHTS)


@dataclass(frozen=True, slots=True)
class Settings:
    """Supervisor: limits and timeouts, effective at once for whatever starts after it. Times are seconds."""

    hold_timeout_seconds: float = 5.0
    head_timeout_seconds: float = 10.0
    idle_timeout_seconds: float = 75.0
    response_timeout_seconds: float = 0.0  # 0: wait for ever
    max_head_bytes: int = 64 * 1024
    max_connections: int = 10_000
    trusted_proxies: tuple[str, ...] = ("127.0.0.0/8", "::1/128")  # networks whose X-Forwarded-* is believed
    access_log: str | None = None  # path of the file that gets a line for each request
    forwarded_port: int | None = None  # X-Forwarded-Port; None: the port the client connected to


@dataclass(frozen=True, slots=True)
class Upstream:
    """One address of a release. ``host`` is an IP address or a name; ``is_up`` False: it is known not to listen."""

    host: str
    port: int
    is_up: bool = True


@dataclass(frozen=True, slots=True)
class Target:
    """One release as the worker sees it: an opaque key and where its processes listen."""

    release_key: str
    upstreams: tuple[Upstream, ...]
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Route:
    """Supervisor: where requests go from now on; answered with Ack once no new request goes elsewhere.

    ``targets`` lists every release that is active or draining; ``active`` names the one for new requests.
    With ``active`` None new requests get 503 at once, or wait up to the hold timeout when ``hold`` is true.
    ``reason`` is for people: why nothing is active ("none": no release yet, "stopped": by the operator, ...).
    """

    generation: int
    active: str | None
    reason: str = "none"
    targets: tuple[Target, ...] = ()
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Supervisor: stop accepting, finish what is in flight for at most ``drain_seconds``, exit 0."""

    drain_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Retire:
    """Supervisor: another worker has taken over. Stop accepting, serve what is connected, exit 0 after the last.

    No connection is closed while a request may be on its way on it: each is told with its next answer (Connection:
    close), silent ones go after the idle timeout, tunnels when they end. Routes and settings are obeyed until then.
    """


@dataclass(frozen=True, slots=True)
class ReleaseCounts:
    """What one release has in flight in one worker: requests not yet answered in full, and tunnels."""

    http: int = 0
    websocket: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Worker: everything it counts. A release of the route is always listed, one not listed has nothing in flight."""

    releases: Mapping[str, ReleaseCounts] = field(default_factory=dict)
    clients: int = 0  # open client connections, idle ones included
    requests_total: int = 0  # requests read since the worker started
    held: int = 0  # requests waiting for an upstream


@dataclass(frozen=True, slots=True)
class Welcome:
    """Worker: answers Hello. ``generation`` is the last route it acknowledged, 0 when it has none yet; ``active`` is
    the release that this route sends new requests to."""

    protocol: int
    pid: int
    index: int
    generation: int
    counts: Counts
    version: str
    active: str | None = None
    is_retiring: bool = False  # it was told to Retire


@dataclass(frozen=True, slots=True)
class Ack:
    """Worker: from here on no new request goes to anything but this route's active release."""

    generation: int


@dataclass(frozen=True, slots=True)
class Report:
    """Worker: something for the events. Repetitions are throttled; ``data["repeated"]`` says how many were left out."""

    message: str
    data: Mapping[str, object] = field(default_factory=dict)


Message: TypeAlias = Hello | Settings | Route | Retire | Shutdown | Welcome | Ack | Counts | Report

_NAMES: Final[Mapping[type[Message], str]] = {
    Hello: "hello",
    Settings: "settings",
    Route: "route",
    Retire: "retire",
    Shutdown: "shutdown",
    Welcome: "welcome",
    Ack: "ack",
    Counts: "counts",
    Report: "report",
}


def encode(message: Message) -> bytes:
    """Return ``message`` as one line, newline included."""
    shape = {"type": _NAMES[type(message)], **asdict(message)}
    return json.dumps(shape, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Return the message a line holds; raise BadMessage when it holds none."""
    try:
        shape = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"not JSON: {line[:80]!r}") from error
    fields = _Fields(shape, "message")
    name = fields.text("type")
    reader = _READERS.get(name)
    if reader is None:
        raise BadMessage(f"no message is called {name[:40]!r}")
    return reader(fields)


_T = TypeVar("_T")
_HOST: Final = re.compile(r"[0-9A-Za-z._:%-]{1,255}")


class _Fields:
    """Typed reading of one JSON object; a field left out takes its default, one without a default is an error."""

    def __init__(self, shape: object, where: str) -> None:
        if not isinstance(shape, dict):
            raise BadMessage(f"{where} is not an object")
        self._shape: dict[str, object] = shape
        self._where = where

    def text(self, key: str, default: str | None = None) -> str:
        return self._read(key, default, lambda value: isinstance(value, str))

    def flag(self, key: str, default: bool | None = None) -> bool:
        return self._read(key, default, lambda value: isinstance(value, bool))

    def count(self, key: str, default: int | None = None) -> int:
        return self._read(key, default, lambda value: type(value) is int and 0 <= value < 2**63)

    def seconds(self, key: str, default: float | None = None) -> float:
        return float(self._read(key, default, lambda value: type(value) in (int, float) and 0 <= value < 1e9))  # type: ignore[operator]  # the type is checked right before

    def optional_text(self, key: str) -> str | None:
        return None if self._shape.get(key) is None else self.text(key)

    def optional_count(self, key: str) -> int | None:
        return None if self._shape.get(key) is None else self.count(key)

    def items(self, key: str) -> list[object]:
        return self._read(key, None, lambda value: isinstance(value, list))

    def mapping(self, key: str) -> dict[str, object]:
        return self._read(key, None, lambda value: isinstance(value, dict))

    def _read(self, key: str, default: _T | None, is_right: Callable[[object], bool]) -> _T:
        value = self._shape.get(key, default)
        if not is_right(value):
            raise BadMessage(f"{self._where}.{key} cannot be {value!r:.80}")
        return value  # type: ignore[return-value]  # ``is_right`` has just shown it


def _read_hello(fields: _Fields) -> Hello:
    return Hello(fields.count("protocol"), fields.flag("want_listener", False))


def _read_settings(fields: _Fields) -> Settings:
    default = Settings()
    return Settings(
        hold_timeout_seconds=fields.seconds("hold_timeout_seconds", default.hold_timeout_seconds),
        head_timeout_seconds=fields.seconds("head_timeout_seconds", default.head_timeout_seconds),
        idle_timeout_seconds=fields.seconds("idle_timeout_seconds", default.idle_timeout_seconds),
        response_timeout_seconds=fields.seconds("response_timeout_seconds", default.response_timeout_seconds),
        max_head_bytes=fields.count("max_head_bytes", default.max_head_bytes),
        max_connections=fields.count("max_connections", default.max_connections),
        trusted_proxies=tuple(_network(item) for item in fields.items("trusted_proxies")),
        access_log=fields.optional_text("access_log"),
        forwarded_port=fields.optional_count("forwarded_port"),
    )


def _read_route(fields: _Fields) -> Route:
    targets = tuple(_read_target(_Fields(item, "target")) for item in fields.items("targets"))
    active = fields.optional_text("active")
    if active is not None and active not in {target.release_key for target in targets}:
        raise BadMessage(f"the route's active release {active[:80]!r} is not among its targets")
    return Route(fields.count("generation"), active, fields.text("reason", "none"), targets, fields.flag("hold", False))


def _read_target(fields: _Fields) -> Target:
    upstreams = tuple(_read_upstream(_Fields(item, "upstream")) for item in fields.items("upstreams"))
    return Target(fields.text("release_key"), upstreams, fields.count("weight", 1))


def _read_upstream(fields: _Fields) -> Upstream:
    port = fields.count("port")
    if not 1 <= port <= 65535:
        raise BadMessage(f"upstream.port cannot be {port}")
    host = fields.text("host")
    if not _HOST.fullmatch(host):
        raise BadMessage(f"upstream.host cannot be {host[:80]!r}")
    return Upstream(host, port, fields.flag("is_up", True))


def _read_shutdown(fields: _Fields) -> Shutdown:
    return Shutdown(fields.seconds("drain_seconds", 0.0))


def _read_counts(fields: _Fields) -> Counts:
    releases = {key: _read_release_counts(_Fields(item, key)) for key, item in fields.mapping("releases").items()}
    return Counts(releases, fields.count("clients", 0), fields.count("requests_total", 0), fields.count("held", 0))


def _read_release_counts(fields: _Fields) -> ReleaseCounts:
    return ReleaseCounts(fields.count("http"), fields.count("websocket"))


def _read_welcome(fields: _Fields) -> Welcome:
    return Welcome(
        protocol=fields.count("protocol"),
        pid=fields.count("pid"),
        index=fields.count("index"),
        generation=fields.count("generation"),
        counts=_read_counts(_Fields(fields.mapping("counts"), "counts")),
        version=fields.text("version"),
        active=fields.optional_text("active"),
        is_retiring=fields.flag("is_retiring", False),
    )


def _read_ack(fields: _Fields) -> Ack:
    return Ack(fields.count("generation"))


def _read_report(fields: _Fields) -> Report:
    return Report(fields.text("message"), fields.mapping("data"))


def _network(item: object) -> str:
    if not isinstance(item, str):
        raise BadMessage(f"trusted_proxies cannot hold {item!r:.80}")
    try:
        ipaddress.ip_network(item, strict=False)
    except ValueError as error:
        raise BadMessage(f"trusted_proxies: {error}") from error
    return item


_READERS: Final[Mapping[str, Callable[[_Fields], Message]]] = {
    "hello": _read_hello,
    "settings": _read_settings,
    "route": _read_route,
    "retire": lambda _: Retire(),
    "shutdown": _read_shutdown,
    "welcome": _read_welcome,
    "ack": _read_ack,
    "counts": _read_counts,
    "report": _read_report,
}
