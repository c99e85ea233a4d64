"""HTTP/1.1 messages read a second time: straight from the grammar of RFC 9112, one byte after the other, slowly.

It shares nothing with the proxy, neither code nor method, and is as strict as the RFC lets a recipient be, except that
a request-target may hold any visible character. Whatever the proxy accepts must be accepted here and mean the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

DIGITS: Final = frozenset(b"0123456789")
ALPHAS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
HEXDIGITS: Final = DIGITS | frozenset(b"abcdefABCDEF")
TCHARS: Final = DIGITS | ALPHAS | frozenset(b"!#$%&'*+-.^_`|~")
VCHARS: Final = frozenset(range(0x21, 0x7F))
OBS_TEXT: Final = frozenset(range(0x80, 0x100))
FIELD_VCHARS: Final = VCHARS | OBS_TEXT
BLANKS: Final = frozenset(b" \t")
QDTEXT: Final = (FIELD_VCHARS | BLANKS) - frozenset(b'"\\')
QUOTED_PAIR: Final = FIELD_VCHARS | BLANKS
UNRESERVED: Final = ALPHAS | DIGITS | frozenset(b"-._~")
REG_NAME: Final = UNRESERVED | frozenset(b"!$&'()*+,;=") | frozenset(b"%")
IN_BRACKETS: Final = HEXDIGITS | frozenset(b":.")


class Unreadable(Exception):
    """The bytes are not what the grammar says, or what a recipient must refuse."""


class Incomplete(Exception):
    """The bytes end before the message does."""


@dataclass
class Body:
    """The body's payload, chunks joined."""

    payload: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    chunk_sizes: list[int] = field(default_factory=list)


@dataclass
class Head:
    """A message's start line (its three parts) and its fields, names lowercased."""

    start: tuple[bytes, bytes, bytes]
    fields: list[tuple[bytes, bytes]]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]

    def members(self, name: bytes) -> list[bytes]:
        """The members of a list-based field (RFC 9110, section 5.6.1), lowercased, empty ones left out."""
        members = []
        for value in self.values(name):
            for part in value.split(b","):
                if part.strip(b" \t"):
                    members.append(part.strip(b" \t").lower())
        return members


@dataclass
class Request:
    """A request with its body, and its target reduced to path and host."""

    head: Head
    host: bytes | None
    path: bytes
    is_chunked: bool
    length: int | None
    body: Body = field(default_factory=Body)

    @property
    def method(self) -> bytes:
        return self.head.start[0]


class Cursor:
    """A place in the bytes; every rule of the grammar is a method that moves it on."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def peek(self) -> int:
        if self.at >= len(self.data):
            raise Incomplete
        return self.data[self.at]

    def one_of(self, allowed: frozenset[int], least: int = 1) -> bytes:
        """``*( allowed )``, at least so many."""
        start = self.at
        while self.peek() in allowed:
            self.at += 1
        if self.at - start < least:
            raise Unreadable(f"unexpected {self.peek():#x} at {self.at}")
        return self.data[start : self.at]

    def exactly(self, text: bytes) -> None:
        for byte in text:
            if self.peek() != byte:
                raise Unreadable(f"unexpected {self.peek():#x} at {self.at}")
            self.at += 1

    def exactly_one(self, allowed: frozenset[int]) -> bytes:
        if self.peek() not in allowed:
            raise Unreadable(f"unexpected {self.peek():#x} at {self.at}")
        self.at += 1
        return self.data[self.at - 1 : self.at]

    def crlf(self) -> None:
        self.exactly(b"\r\n")

    def version(self) -> bytes:
        """HTTP-version = HTTP-name "/" DIGIT "." DIGIT"""
        start = self.at
        self.exactly(b"HTTP/")
        self.exactly_one(DIGITS)
        self.exactly(b".")
        self.exactly_one(DIGITS)
        return self.data[start : self.at]

    def request_line(self) -> tuple[bytes, bytes, bytes]:
        method = self.one_of(TCHARS)
        self.exactly(b" ")
        target = self.one_of(VCHARS)
        self.exactly(b" ")
        version = self.version()
        self.crlf()
        return method, target, version

    def status_line(self) -> tuple[bytes, bytes, bytes]:
        """The reason and the blank before it may be missing: section 4 asks nobody to refuse that."""
        version = self.version()
        self.exactly(b" ")
        status = b"".join([self.exactly_one(DIGITS) for _ in range(3)])
        reason = b""
        if self.peek() == 0x20:
            self.at += 1
            reason = self.one_of(FIELD_VCHARS | BLANKS, 0)
        self.crlf()
        return version, status, reason

    def field_lines(self) -> list[tuple[bytes, bytes]]:
        """``*( field-line CRLF ) CRLF``; a line folded onto the next one (obs-fold) is refused."""
        fields = []
        while self.peek() != 0x0D:
            name = self.one_of(TCHARS)
            self.exactly(b":")
            self.one_of(BLANKS, 0)
            value = self.one_of(FIELD_VCHARS | BLANKS, 0)
            self.crlf()
            while value and value[-1] in BLANKS:
                value = value[:-1]
            fields.append((name.lower(), value))
        self.crlf()
        return fields

    def quoted_string(self) -> None:
        self.exactly(b'"')
        while self.peek() != 0x22:
            if self.peek() == 0x5C:
                self.at += 1
                self.exactly_one(QUOTED_PAIR)
            else:
                self.exactly_one(QDTEXT)
        self.exactly(b'"')

    def chunk_extensions(self) -> None:
        """``*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )``"""
        while self.peek() != 0x0D:
            self.one_of(BLANKS, 0)
            self.exactly(b";")
            self.one_of(BLANKS, 0)
            self.one_of(TCHARS)
            before = self.at
            self.one_of(BLANKS, 0)
            if self.peek() == 0x3D:
                self.at += 1
                self.one_of(BLANKS, 0)
                if self.peek() == 0x22:
                    self.quoted_string()
                else:
                    self.one_of(TCHARS)
            else:
                self.at = before  # the blanks belong to the next extension, or to nothing

    def chunked_body(self) -> Body:
        body = Body()
        while True:
            size = int(self.one_of(HEXDIGITS), 16)
            self.chunk_extensions()
            self.crlf()
            if size == 0:
                body.trailers = self.field_lines()
                return body
            if self.at + size > len(self.data):
                raise Incomplete
            body.payload += self.data[self.at : self.at + size]
            body.chunk_sizes.append(size)
            self.at += size
            self.crlf()

    def fixed_body(self, length: int) -> Body:
        if self.at + length > len(self.data):
            raise Incomplete
        self.at += length
        return Body(self.data[self.at - length : self.at])


def content_length(head: Head) -> int | None:
    """Section 6.3, item 5: a number; the same number repeated in a list is for the recipient to refuse or to take."""
    members = [part.strip(b" \t") for value in head.values(b"content-length") for part in value.split(b",")]
    if not members:
        return None
    if not all(member and all(byte in DIGITS for byte in member) for member in members):
        raise Unreadable("Content-Length is no number")
    if len({int(member) for member in members}) != 1:
        raise Unreadable("two different Content-Lengths")
    return int(members[0])


def is_chunked(head: Head, version: bytes) -> bool:
    """Whether the body is chunked; Transfer-Encoding in HTTP/1.0 is faulty framing (section 6.1)."""
    if not head.values(b"transfer-encoding"):
        return False
    if version != b"HTTP/1.1":
        raise Unreadable("Transfer-Encoding in HTTP/1.0")
    if head.values(b"content-length"):
        raise Unreadable("Transfer-Encoding and Content-Length")
    codings = head.members(b"transfer-encoding")
    if not codings or codings[-1] != b"chunked" or codings.count(b"chunked") != 1:
        raise Unreadable("chunked is not the last coding, or not applied once")
    return True


def check_host(host: bytes) -> None:
    """``uri-host [ ":" port ]`` (RFC 9110, section 7.2; RFC 3986, section 3.2.2)"""
    if host.startswith(b"["):
        inside, bracket, port = host[1:].partition(b"]")
        if not bracket or not inside or not all(byte in IN_BRACKETS for byte in inside):
            raise Unreadable("Host is no address")
        if port and not port.startswith(b":"):
            raise Unreadable("something follows Host's address")
        port = port[1:]
    else:
        name, _, port = host.partition(b":")
        if not all(byte in REG_NAME for byte in name):
            raise Unreadable("Host is no name")
    if not all(byte in DIGITS for byte in port):
        raise Unreadable("Host's port is no number")


def effective_target(head: Head) -> tuple[bytes | None, bytes]:
    """Host and path of the target (section 3.3)."""
    method, target, version = head.start
    hosts = head.values(b"host")
    if len(hosts) > 1 or (not hosts and version == b"HTTP/1.1"):
        raise Unreadable("not exactly one Host")
    for value in hosts:
        check_host(value)
    host = hosts[0] if hosts else None
    if method == b"CONNECT":
        raise Unreadable("CONNECT is for forward proxies")
    if target == b"*":
        if method != b"OPTIONS":
            raise Unreadable("only OPTIONS may be asked of *")
        return host, target
    if b"#" in target:
        raise Unreadable("a fragment in the target")
    if target.startswith(b"/"):
        return host, target
    scheme, colon, rest = target.partition(b"://")
    if not colon or scheme.lower() not in (b"http", b"https"):
        raise Unreadable("the target is neither a path nor an http URL")
    end = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    authority, path = rest[:end], rest[end:]
    if not authority or authority.startswith(b":"):
        raise Unreadable("no host in the target")
    check_host(authority)
    if not path:
        path = b"*" if method == b"OPTIONS" else b"/"
    elif path.startswith(b"?"):
        path = b"/" + path
    return authority, path


def read_request_head(data: bytes, at: int = 0) -> tuple[Request, int]:
    """The request whose head starts at ``at``, without its body, and where the head ends."""
    cursor = Cursor(data, at)
    start = cursor.request_line()
    if start[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise Unreadable("neither HTTP/1.0 nor HTTP/1.1")
    head = Head(start, cursor.field_lines())
    host, path = effective_target(head)
    return Request(head, host, path, is_chunked(head, start[2]), content_length(head)), cursor.at


def read_request(data: bytes, at: int = 0) -> tuple[Request, int]:
    """The request that starts at ``at``, with its body, and where it ends."""
    request, at = read_request_head(data, at)
    cursor = Cursor(data, at)
    request.body = cursor.chunked_body() if request.is_chunked else cursor.fixed_body(request.length or 0)
    return request, cursor.at


def read_requests(data: bytes) -> tuple[list[Request], int, str]:
    """All requests in ``data``, where the last one ends, and what follows: "" nothing, "incomplete" or "unreadable"."""
    requests: list[Request] = []
    at = 0
    try:
        while at < len(data):
            # One empty line before a request is to be ignored (section 2.2).
            skipped = 2 if data[at : at + 2] == b"\r\n" else 0
            if data[at:] == b"\r\n":
                return requests, len(data), ""
            request, at = read_request(data, at + skipped)
            requests.append(request)
    except Incomplete:
        return requests, at, "incomplete"
    except Unreadable:
        return requests, at, "unreadable"
    return requests, at, ""


@dataclass
class Response:
    """A response's head and what is known of its body's end."""

    head: Head
    status: int
    is_chunked: bool
    length: int | None


def read_response_head(data: bytes, at: int = 0) -> tuple[Response, int]:
    cursor = Cursor(data, at)
    start = cursor.status_line()
    if start[0] not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise Unreadable("neither HTTP/1.0 nor HTTP/1.1")
    head = Head(start, cursor.field_lines())
    return Response(head, int(start[1]), is_chunked(head, start[0]), content_length(head)), cursor.at


@dataclass
class Answer:
    """A response as a client sees it; ``end`` is how its body ended: "framed", "close" or "cut"."""

    response: Response
    payload: bytes
    end: str


def read_answers(data: bytes, methods: list[bytes]) -> tuple[list[Answer], bytes]:
    """The final responses in ``data``, everything up to the end of a connection, to requests of these methods.

    Returns what follows the last one too. Raises Unreadable when something is no response, and Incomplete when the
    last head is cut.
    """
    answers: list[Answer] = []
    at = 0
    for method in methods:
        if at >= len(data):
            break
        response, at = read_response_head(data, at)
        while response.status < 200:
            if response.status == 101:
                return [*answers, Answer(response, data[at:], "close")], b""
            response, at = read_response_head(data, at)
        cursor = Cursor(data, at)
        if method == b"HEAD" or response.status in (204, 304):
            answers.append(Answer(response, b"", "framed"))
            continue
        try:
            if response.is_chunked:
                payload, end = cursor.chunked_body().payload, "framed"
            elif response.length is not None:
                payload, end = cursor.fixed_body(response.length).payload, "framed"
            else:
                payload, end = data[at:], "close"
                cursor.at = len(data)
        except Incomplete:
            payload, end = data[at:], "cut"
            cursor.at = len(data)
        answers.append(Answer(response, payload, end))
        at = cursor.at
    return answers, data[at:]
