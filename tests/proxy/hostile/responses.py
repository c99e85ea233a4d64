"""Hostile responses: what a faulty or hijacked application sends, and what the client has to see of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

EVIL: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


@dataclass(frozen=True)
class Case:
    """``status`` and ``body`` are what the client gets, in full; with ``is_cut`` it sees that there is more to it.

    The response is sent in one piece, ``late`` once the client has read the body so far.
    """

    name: str
    data: bytes
    status: int = 502
    body: bytes | None = None
    method: bytes = b"GET"
    ending: str = ""  # what the application does then: "FIN", "RST", or nothing
    late: bytes = b""
    is_cut: bool = False
    is_reused: bool = False  # the connection is fit for another request


def ok(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    return b"\r\n".join([status, *lines, b"", body])


TE: Final = b"Transfer-Encoding: chunked"
END: Final = b"0\r\n\r\n"
CHUNK: Final = b"3\r\nabc\r\n"

# Nothing of these reaches the client: 502.
_BAD: Final = {
    "CL and TE": ok(b"Content-Length: 5", TE, body=END + EVIL),
    "TE and CL": ok(TE, b"Content-Length: 5", body=END + EVIL),
    "CL.CL, equal": ok(b"Content-Length: 2", b"Content-Length: 2", body=b"ok"),
    "CL.CL": ok(b"Content-Length: 2", b"Content-Length: 3", body=b"ok!"),
    "CL as a list": ok(b"Content-Length: 2, 2", body=b"ok"),
    "CL negative": ok(b"Content-Length: -2", body=b"ok"),
    "CL with a plus": ok(b"Content-Length: +2", body=b"ok"),
    "CL hexadecimal": ok(b"Content-Length: 0x2", body=b"ok"),
    "CL with an underscore": ok(b"Content-Length: 1_0", body=b"ok"),
    "CL empty": ok(b"Content-Length:", body=b"ok"),
    "CL a word": ok(b"Content-Length: two", body=b"ok"),
    "CL 2^64": ok(b"Content-Length: 18446744073709551616", body=b"ok"),
    "CL with a space before the colon": ok(b"Content-Length : 2", body=b"ok"),
    "CL folded": ok(b"Content-Length:", b" 2", body=b"ok"),
    "TE gzip, chunked": ok(b"Transfer-Encoding: gzip, chunked", body=END),
    "TE chunked, identity": ok(b"Transfer-Encoding: chunked, identity", body=END),
    "TE identity": ok(b"Transfer-Encoding: identity", body=END),
    "TE xchunked": ok(b"Transfer-Encoding: xchunked", body=END),
    "TE behind a vertical tab": ok(b"Transfer-Encoding: \x0bchunked", body=END),
    "TE empty": ok(b"Transfer-Encoding:", body=END),
    "TE.TE": ok(TE, TE, body=END),
    "TE in HTTP/1.0": ok(TE, status=b"HTTP/1.0 200 OK", body=END),
    "LF for every line end": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "LF after the status line": b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok",
    "LF in a field": ok(b"X: a\nSet-Cookie: evil", b"Content-Length: 0"),
    "CR in a field": ok(b"X: a\rSet-Cookie: evil", b"Content-Length: 0"),
    "CR in the reason": ok(b"Content-Length: 0", status=b"HTTP/1.1 200 O\rK"),
    "NUL in a field": ok(b"X: \x00", b"Content-Length: 0"),
    "NUL in the reason": ok(b"Content-Length: 0", status=b"HTTP/1.1 200 \x00"),
    "escape in a field": ok(b"X: \x1b[2J", b"Content-Length: 0"),
    "obs-fold": ok(b"X: a", b" b", b"Content-Length: 0"),
    "fold of the first field": ok(b" X: a", b"Content-Length: 0"),
    "space in a field's name": ok(b"X Y: a", b"Content-Length: 0"),
    "empty field name": ok(b": a", b"Content-Length: 0"),
    "field without a colon": ok(b"nonsense", b"Content-Length: 0"),
    "no blank after the version": ok(b"Content-Length: 0", status=b"HTTP/1.1200 OK"),
    "two blanks after the version": ok(b"Content-Length: 0", status=b"HTTP/1.1  200 OK"),
    "tab after the version": ok(b"Content-Length: 0", status=b"HTTP/1.1\t200 OK"),
    "no blank after the status": ok(b"Content-Length: 0", status=b"HTTP/1.1 200OK"),
    "no status": ok(b"Content-Length: 0", status=b"HTTP/1.1 OK"),
    "status of two digits": ok(b"Content-Length: 0", status=b"HTTP/1.1 20 OK"),
    "status of four digits": ok(b"Content-Length: 0", status=b"HTTP/1.1 2000 OK"),
    "status 000": ok(b"Content-Length: 0", status=b"HTTP/1.1 000 OK"),
    "status 099": ok(b"Content-Length: 0", status=b"HTTP/1.1 099 OK"),
    "status negative": ok(b"Content-Length: 0", status=b"HTTP/1.1 -20 OK"),
    "status with a plus": ok(b"Content-Length: 0", status=b"HTTP/1.1 +20 OK"),
    "status in letters": ok(b"Content-Length: 0", status=b"HTTP/1.1 2OO OK"),
    "version 2.0": ok(b"Content-Length: 0", status=b"HTTP/2.0 200 OK"),
    "version 1.2": ok(b"Content-Length: 0", status=b"HTTP/1.2 200 OK"),
    "version 1.10": ok(b"Content-Length: 0", status=b"HTTP/1.10 200 OK"),
    "version in small letters": ok(b"Content-Length: 0", status=b"http/1.1 200 OK"),
    "another protocol": ok(b"Content-Length: 0", status=b"ICY 200 OK"),
    "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a greeting": b"220 mail.example ESMTP\r\n\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "HTTP/2 settings": b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "an empty line first": b"\r\n" + ok(b"Content-Length: 0"),
    "a blank first": b" " + ok(b"Content-Length: 0"),
    "a body without a head": b"<html>hello</html>\r\n\r\n",
    "field of 70,000 bytes": ok(b"X: " + b"a" * 70_000, b"Content-Length: 0"),
    "70,000 bytes without a line's end": b"HTTP/1.1 200 " + b"a" * 70_000,
    "501 fields": ok(*[b"X: y"] * 500, b"Content-Length: 0"),
    "head that never ends": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 12_000,
    "101 that nobody asked for": ok(b"Upgrade: x", b"Connection: Upgrade", status=b"HTTP/1.1 101 Switching") + EVIL,
    "100 with a body": ok(b"Content-Length: 5", status=b"HTTP/1.1 100 Continue", body=b"hello") + ok(),
    "103 and then rubbish": ok(status=b"HTTP/1.1 103 Early Hints") + b"rubbish\r\n\r\n",
    "malformed 103": ok(b"X : y", status=b"HTTP/1.1 103 Early Hints") + ok(b"Content-Length: 0"),
    "chunk size no number": ok(TE, body=b"zz\r\n"),
    "chunk size with 0x": ok(TE, body=b"0x3\r\nabc\r\n" + END),
    "chunk size negative": ok(TE, body=b"-3\r\nabc\r\n" + END),
    "chunk size 2^64 and three": ok(TE, body=b"10000000000000003\r\nabc\r\n" + END),
    "chunk size before a blank": ok(TE, body=b"3 \r\nabc\r\n" + END),
    "chunk size line ends in LF": ok(TE, body=b"3\nabc\n0\n\n"),
    "chunk longer than its size": ok(TE, body=b"2\r\nabc\r\n" + END),
    "chunk shorter than its size": ok(TE, body=b"4\r\nabc\r\n" + END),
    "chunk with an open quote": ok(TE, body=b'3;a="\r\nabc\r\n' + END),
    "trailer folded": ok(TE, body=b"0\r\nX: y\r\n z\r\n\r\n"),
    "trailer with a bare LF": ok(TE, body=b"0\r\nX: y\nZ: z\r\n\r\n"),
    "trailers without an end": ok(TE, body=b"0\r\n" + b"X: y\r\n" * 3000),
}

_GONE: Final = {
    "nothing at all": b"",
    "one byte": b"H",
    "head cut in the status line": b"HTTP/1.1 20",
    "head cut in a field": b"HTTP/1.1 200 OK\r\nContent-Length: 1",
    "head cut before its last LF": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r",
    "only a 103": ok(status=b"HTTP/1.1 103 Early Hints"),
}

# The response is good, and what follows it is nobody's.
_WITH_EXTRA: Final = [
    Case("extra after CL", ok(b"Content-Length: 2", body=b"ok"), 200, b"ok"),
    Case("extra after CL 0", ok(b"Content-Length: 0"), 200, b""),
    Case("extra after 400 KB", ok(b"Content-Length: 400000", body=b"ok" * 200_000), 200, b"ok" * 200_000),
    Case("extra after chunks", ok(TE, body=CHUNK + END), 200, b"abc"),
    Case("extra after trailers", ok(TE, body=CHUNK + b"0\r\nX: y\r\n\r\n"), 200, b"abc"),
    Case("extra in HTTP/1.0", ok(b"Content-Length: 2", status=b"HTTP/1.0 200 OK", body=b"ok"), 200, b"ok"),
    Case("extra after a 500", ok(b"Content-Length: 0", status=b"HTTP/1.1 500 Oh"), 500, b""),
    Case("body after HEAD", ok(b"Content-Length: 2", body=b"ok"), 200, b"", b"HEAD"),
    Case("chunks after HEAD", ok(TE, body=CHUNK + END), 200, b"", b"HEAD"),
    Case("body after 204", ok(b"Content-Length: 2", status=b"HTTP/1.1 204 None", body=b"ok"), 204, b""),
    Case("chunks after 204", ok(TE, status=b"HTTP/1.1 204 None", body=CHUNK + END), 204, b""),
    Case("body after 304", ok(b"Content-Length: 2", status=b"HTTP/1.1 304 Same", body=b"ok"), 304, b""),
    Case(
        "1000 interim responses",
        ok(status=b"HTTP/1.1 103 Hi") * 1000 + ok(b"Content-Length: 2", body=b"ok"),
        200,
        b"ok",
    ),
    Case(
        "interim with a length", ok(b"Content-Length: 9", TE, status=b"HTTP/1.1 103 Hi") + ok(b"Content-Length: 0"), 502
    ),
]

_GOOD: Final = [
    Case("no reason", ok(b"Content-Length: 2", status=b"HTTP/1.1 200 ", body=b"ok"), 200, b"ok", is_reused=True),
    Case("status 999", ok(b"Content-Length: 2", status=b"HTTP/1.1 999 ?", body=b"ok"), 999, b"ok", is_reused=True),
    Case("reason in Latin-1", ok(b"Content-Length: 0", status=b"HTTP/1.1 200 \xe4"), 200, b"", is_reused=True),
    Case("CL with zeros", ok(b"Content-Length: 002", body=b"ok"), 200, b"ok", is_reused=True),
    Case(
        "Connection names CL",
        ok(b"Connection: content-length", b"Content-Length: 2", body=b"ok"),
        200,
        b"ok",
        is_reused=True,
    ),
    Case(
        "Connection names TE", ok(b"Connection: transfer-encoding", TE, body=CHUNK + END), 200, b"abc", is_reused=True
    ),
    Case("two cookies", ok(b"Set-Cookie: a", b"Set-Cookie: b", b"Content-Length: 0"), 200, b"", is_reused=True),
    Case("200 to HEAD with TE", ok(TE), 200, b"", b"HEAD", is_reused=True),
    Case("said to close", ok(b"Connection: close", b"Content-Length: 2", body=b"ok"), 200, b"ok"),
    Case("said to close in a list", ok(b"Connection: x, Close", b"Content-Length: 2", body=b"ok"), 200, b"ok"),
    Case("ended by closing", ok(body=b"ok" + EVIL), 200, b"ok" + EVIL, ending="FIN"),
]

# It has begun, and the client must see that it never ends.
_CUT: Final = [
    Case(f"{name}, {ending}", data, 200, b"abc", ending=ending, late=late, is_cut=True)
    for name, data, late, endings in (
        ("CL too large", ok(b"Content-Length: 10", body=b"abc"), b"", ("FIN", "RST")),
        ("largest CL", ok(b"Content-Length: 999999999999999999", body=b"abc"), b"", ("FIN", "RST")),
        ("large CL", ok(b"Content-Length: 400000", body=b"a" * 399_996 + b"abc"), b"", ("FIN", "RST")),
        ("chunk cut", ok(TE, body=b"a\r\nabc"), b"", ("FIN", "RST")),
        ("no last chunk", ok(TE, body=CHUNK), b"", ("FIN", "RST")),
        ("last chunk cut", ok(TE, body=CHUNK + b"0\r\n"), b"", ("FIN", "RST")),
        ("trailers cut", ok(TE, body=CHUNK + b"0\r\nX: y\r\n"), b"", ("FIN", "RST")),
        ("ended by a reset", ok(body=b"abc"), b"", ("RST",)),
        ("HTTP/1.0 ended by a reset", ok(status=b"HTTP/1.0 200 OK", body=b"abc"), b"", ("RST",)),
        ("chunk rubbish", ok(TE, body=CHUNK), b"zz\r\n", ("", "FIN")),
        ("chunk with LF", ok(TE, body=CHUNK), b"1\nx\n", ("",)),
        ("chunk too large", ok(TE, body=CHUNK), b"ffffffffffffffff\r\n", ("",)),
        ("response for a chunk", ok(TE, body=CHUNK), EVIL, ("",)),
        ("trailer rubbish", ok(TE, body=CHUNK), b"0\r\nrubbish\r\n\r\n", ("",)),
        ("extensions without end", ok(TE, body=CHUNK), b"1;" + b"a" * 5000, ("",)),
    )
    for ending in endings
]

CASES: Final[list[Case]] = [
    *(Case(name, data) for name, data in _BAD.items()),
    *(Case(f"{name}, {ending}", data, ending=ending) for name, data in _GONE.items() for ending in ("FIN", "RST")),
    *(Case(case.name, case.data + EVIL, case.status, case.body, case.method) for case in _WITH_EXTRA),
    *_GOOD,
    *_CUT,
]
