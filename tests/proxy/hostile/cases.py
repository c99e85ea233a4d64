"""Hostile requests: what one client sends on one connection, and what the proxy has to make of it.

Where one reader might find a second request in what is another's body, that request asks for /canary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

CANARY: Final = b"GET /canary HTTP/1.1\r\nHost: a\r\n\r\n"
LONG: Final = b"a" * 70_000


@dataclass(frozen=True)
class Forwarded:
    """A request as the application gets it; its body's chunks are joined."""

    method: str = "GET"
    path: str = "/"
    host: str = "a"
    body: bytes = b""


@dataclass(frozen=True)
class Case:
    """``requests`` reach the application, in this order; then ``status`` refuses what follows, if anything is."""

    name: str
    data: bytes
    requests: tuple[Forwarded, ...] = ()
    status: int | None = None
    is_cut: bool = False  # refused only once the client has closed: until then the rest could follow
    differs: dict[str, str] = field(default_factory=dict)  # peers that read it otherwise, and why that is their fault


def head(*lines: bytes, start: bytes = b"GET / HTTP/1.1", host: bytes | None = b"Host: a") -> bytes:
    return b"\r\n".join([start, *([] if host is None else [host]), *lines, b"", b""])


def post(*lines: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    return head(*lines, start=b"POST / HTTP/" + version) + body


def sized(body: bytes, *lines: bytes) -> bytes:
    return post(*lines, b"Content-Length: %d" % len(body), body=body)


def chunked(body: bytes) -> bytes:
    """A chunked POST with ``body`` as it is on the wire, and the canary behind it."""
    return post(b"Transfer-Encoding: chunked", body=body + CANARY)


TE: Final = b"Transfer-Encoding: chunked"
END: Final = b"0\r\n\r\n"
HIDDEN: Final = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CANARY), CANARY)  # the canary as a chunk
POSTED: Final = Forwarded("POST")
GOT_CANARY: Final = Forwarded(path="/canary")


def refused(status: int, cases: dict[str, bytes]) -> list[Case]:
    return [Case(name, data, status=status) for name, data in cases.items()]


# Two lengths, or none that is a number.
LENGTHS = refused(
    400,
    {
        "CL.CL, equal": post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
        "CL.CL, the second larger": post(b"Content-Length: 0", b"Content-Length: %d" % len(CANARY), body=CANARY),
        "CL.CL, the first larger": post(b"Content-Length: %d" % len(CANARY), b"Content-Length: 0", body=CANARY),
        "CL.CL in other cases": post(b"content-length: 0", b"CONTENT-LENGTH: %d" % len(CANARY), body=CANARY),
        "CL.CL with a field between": post(b"Content-Length: 0", b"X: y", b"Content-Length: 33", body=CANARY),
        "CL as a list of equals": post(b"Content-Length: 5, 5", body=b"hello"),
        "CL as a list": post(b"Content-Length: 0, %d" % len(CANARY), body=CANARY),
        "CL with an empty member": post(b"Content-Length: 5,", body=b"hello" + CANARY),
        "CL with a leading comma": post(b"Content-Length: ,5", body=b"hello" + CANARY),
        "CL with a plus": post(b"Content-Length: +5", body=b"hello" + CANARY),
        "CL negative": post(b"Content-Length: -1", body=CANARY),
        "CL minus zero": post(b"Content-Length: -0", body=CANARY),
        "CL hexadecimal": post(b"Content-Length: 0x10", body=CANARY),
        "CL hexadecimal without prefix": post(b"Content-Length: 1f", body=CANARY),
        "CL octal as in C": post(b"Content-Length: 0o5", body=b"hello" + CANARY),
        "CL with an underscore": post(b"Content-Length: 3_5", body=CANARY),
        "CL with a fraction": post(b"Content-Length: 5.0", body=b"hello" + CANARY),
        "CL with an exponent": post(b"Content-Length: 5e0", body=b"hello" + CANARY),
        "CL with a space inside": post(b"Content-Length: 3 5", body=CANARY),
        "CL with a tab inside": post(b"Content-Length: 3\t5", body=CANARY),
        "CL with a semicolon": post(b"Content-Length: 5;x", body=b"hello" + CANARY),
        "CL in quotes": post(b'Content-Length: "5"', body=b"hello" + CANARY),
        "CL empty": post(b"Content-Length:", body=CANARY),
        "CL blank": post(b"Content-Length: \t ", body=CANARY),
        "CL a word": post(b"Content-Length: chunked", body=CANARY),
        "CL in Arabic digits": post("Content-Length: \u0663".encode(), body=b"abc" + CANARY),
        "CL in superscript Latin-1": post(b"Content-Length: \xb2", body=b"ab" + CANARY),
        "CL with a no-break space": post(b"Content-Length: 5\xa0", body=b"hello" + CANARY),
        "CL with a vertical tab": post(b"Content-Length: \x0b5", body=b"hello" + CANARY),
        "CL with a form feed": post(b"Content-Length: 5\x0c", body=b"hello" + CANARY),
        "CL with a NUL": post(b"Content-Length: 5\x00", body=b"hello" + CANARY),
        "CL 2^64": post(b"Content-Length: 18446744073709551616", body=CANARY),
        "CL 2^64 and five": post(b"Content-Length: 18446744073709551621", body=b"hello" + CANARY),
        "CL 2^63": post(b"Content-Length: 9223372036854775808", body=CANARY),
        "CL of a thousand digits": post(b"Content-Length: " + b"9" * 1000, body=CANARY),
        "CL of a thousand zeros and five": post(b"Content-Length: " + b"0" * 1000 + b"5", body=b"hello" + CANARY),
        "CL folded": post(b"Content-Length:", b" 5", body=b"hello" + CANARY),
        "CL with a space before the colon": post(b"Content-Length : 33", body=CANARY),
        "CL with a tab before the colon": post(b"Content-Length\t: 33", body=CANARY),
        "CL with a NUL in its name": post(b"Content\x00-Length: 33", body=CANARY),
        "CL behind a bare CR": post(b"X: y\rContent-Length: 33", body=CANARY),
        "CL behind a bare LF": post(b"X: y\nContent-Length: 33", body=CANARY),
    },
)

# Transfer-Encoding beside Content-Length, or something that is only nearly chunked.
CODINGS = refused(
    400,
    {
        "CL.TE": post(b"Content-Length: %d" % len(END + CANARY), TE, body=END + CANARY),
        "TE.CL": post(TE, b"Content-Length: 4", body=HIDDEN),
        "CL.TE with CL 0": post(b"Content-Length: 0", TE, body=HIDDEN),
        "TE.CL with CL 0": post(TE, b"Content-Length: 0", body=HIDDEN),
        "TE with a CL that is no number": post(TE, b"Content-Length: x", body=END),
        "TE with a repeated CL": post(TE, b"Content-Length: 5", b"Content-Length: 5", body=END),
        "TE.TE": post(TE, TE, body=END + CANARY),
        "TE.TE, the second unknown": post(TE, b"Transfer-Encoding: x", body=END + CANARY),
        "TE.TE, the first unknown": post(b"Transfer-Encoding: x", TE, body=END + CANARY),
        "TE.TE, the second identity": post(TE, b"Transfer-Encoding: identity", body=END + CANARY),
        "TE.TE, the first identity": post(b"Transfer-Encoding: identity", TE, body=END + CANARY),
        "TE.TE, the second empty": post(TE, b"Transfer-Encoding:", body=END + CANARY),
        "TE chunked, identity": post(b"Transfer-Encoding: chunked, identity", body=END + CANARY),
        "TE identity, chunked": post(b"Transfer-Encoding: identity, chunked", body=END + CANARY),
        "TE chunked, chunked": post(b"Transfer-Encoding: chunked, chunked", body=END + CANARY),
        "TE gzip, chunked": post(b"Transfer-Encoding: gzip, chunked", body=END + CANARY),
        "TE chunked, gzip": post(b"Transfer-Encoding: chunked, gzip", body=END + CANARY),
        "TE gzip": post(b"Transfer-Encoding: gzip", body=END + CANARY),
        "TE identity": post(b"Transfer-Encoding: identity", body=END + CANARY),
        "TE identity with CL": post(b"Transfer-Encoding: identity", b"Content-Length: 5", body=END + CANARY),
        "TE xchunked": post(b"Transfer-Encoding: xchunked", body=END + CANARY),
        "TE xchunked with CL": post(b"Transfer-Encoding: xchunked", b"Content-Length: 5", body=END + CANARY),
        "TE chunkedx": post(b"Transfer-Encoding: chunkedx", body=END + CANARY),
        "TE chunked;q=1": post(b"Transfer-Encoding: chunked;q=1", body=END + CANARY),
        "TE in quotes": post(b'Transfer-Encoding: "chunked"', body=END + CANARY),
        "TE in single quotes": post(b"Transfer-Encoding: 'chunked'", body=END + CANARY),
        "TE with a leading comma": post(b"Transfer-Encoding: , chunked", body=END + CANARY),
        "TE with a trailing comma": post(b"Transfer-Encoding: chunked,", body=END + CANARY),
        "TE behind a vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=END + CANARY),
        "TE before a vertical tab": post(b"Transfer-Encoding: chunked\x0b", body=END + CANARY),
        "TE before a form feed": post(b"Transfer-Encoding: chunked\x0c", body=END + CANARY),
        "TE before a NUL": post(b"Transfer-Encoding: chunked\x00", body=END + CANARY),
        "TE behind a no-break space": post(b"Transfer-Encoding: \xa0chunked", body=END + CANARY),
        "TE behind 0xff": post(b"Transfer-Encoding: \xffchunked", body=END + CANARY),
        "TE with a Kelvin sign for its k": post("Transfer-Encoding: chun\u212aed".encode(), body=END + CANARY),
        "TE empty": post(b"Transfer-Encoding:", body=END + CANARY),
        "TE empty with CL": post(b"Transfer-Encoding:", b"Content-Length: 5", body=END + CANARY),
        "TE in two words": post(b"Transfer-Encoding: chun ked", body=END + CANARY),
        "TE folded": post(b"Transfer-Encoding:", b" chunked", body=END + CANARY),
        "TE folded with CL": post(b"Content-Length: 5", b"Transfer-Encoding:", b"\tchunked", body=END + CANARY),
        "TE hidden in a folded field": post(b"X: y", b" Transfer-Encoding: chunked", body=END + CANARY),
        "TE with a space before the colon": post(b"Transfer-Encoding : chunked", body=END + CANARY),
        "TE with a space before the colon and CL": post(
            b"Transfer-Encoding : chunked", b"Content-Length: 5", body=END + CANARY
        ),
        "TE with a tab before the colon": post(b"Transfer-Encoding\t: chunked", body=END + CANARY),
        "TE with a vertical tab before the colon": post(b"Transfer-Encoding\x0b: chunked", body=END + CANARY),
        "TE with a space before its name": post(b" Transfer-Encoding: chunked", body=END + CANARY),
        "TE with a NUL before its name": post(b"\x00Transfer-Encoding: chunked", body=END + CANARY),
        "TE behind a bare CR": post(b"X: y\rTransfer-Encoding: chunked", body=END + CANARY),
        "TE behind a bare LF": post(b"X: y\nTransfer-Encoding: chunked", body=END + CANARY),
        "TE behind LF CR": post(b"X: y\n\rTransfer-Encoding: chunked", body=END + CANARY),
        "TE in the request line's fold": b"POST / HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: a\r\n\r\n" + END,
        "TE in HTTP/1.0": post(TE, body=END + CANARY, version=b"1.0"),
        "TE in HTTP/1.0 that stays": post(TE, b"Connection: keep-alive", body=END + CANARY, version=b"1.0"),
        "TE with CL in HTTP/1.0": post(TE, b"Content-Length: 5", body=END + CANARY, version=b"1.0"),
        "TE without a colon": post(b"Transfer-Encoding chunked", body=END + CANARY),
        "TE with an equals sign": post(b"Transfer-Encoding=chunked", body=END + CANARY),
        "TE in brackets": post(b"[Transfer-Encoding]: chunked", body=END + CANARY),
    },
)

# Chunks whose size, end or extensions are not what the grammar says. A request that has begun to be forwarded when
# its body turns out bad is cut, never ended.
CHUNKS = refused(
    400,
    {
        "chunk size negative": chunked(b"-1\r\n" + END),
        "chunk size with a plus": chunked(b"+5\r\nhello\r\n" + END),
        "chunk size with 0x": chunked(b"0x5\r\nhello\r\n" + END),
        "chunk size 0X0": chunked(b"0X0\r\n\r\n"),
        "chunk size with an underscore": chunked(b"0_5\r\nhello\r\n" + END),
        "chunk size with an h": chunked(b"5h\r\nhello\r\n" + END),
        "chunk size with a point": chunked(b"5.0\r\nhello\r\n" + END),
        "chunk size in quotes": chunked(b'"5"\r\nhello\r\n' + END),
        "chunk size empty": chunked(b"\r\nhello\r\n" + END),
        "chunk size only an extension": chunked(b";a=b\r\nhello\r\n" + END),
        "chunk size behind a space": chunked(b" 5\r\nhello\r\n" + END),
        "chunk size behind a tab": chunked(b"\t5\r\nhello\r\n" + END),
        "chunk size before a space": chunked(b"5 \r\nhello\r\n" + END),
        "chunk size before a tab": chunked(b"5\t\r\nhello\r\n" + END),
        "chunk size before a vertical tab": chunked(b"5\x0b\r\nhello\r\n" + END),
        "chunk size before a NUL": chunked(b"5\x00\r\nhello\r\n" + END),
        "chunk size in two words": chunked(b"5 5\r\nhello\r\n" + END),
        "chunk size 2^64": chunked(b"10000000000000000\r\nhello\r\n" + END),
        "chunk size 2^64 and five": chunked(b"10000000000000005\r\nhello\r\n" + END),
        "chunk size 2^63": chunked(b"8000000000000000\r\nhello\r\n" + END),
        "chunk size 2^64 less one": chunked(b"ffffffffffffffff\r\nhello\r\n" + END),
        "chunk size of a thousand zeros": chunked(b"0" * 1000 + b"5\r\nhello\r\n" + END),
        "chunk size in wide digits": chunked("\uff15\r\nhello\r\n".encode() + END),
        "chunk size line ends in LF": chunked(b"5\nhello\r\n" + END),
        "chunk size line ends in CR": chunked(b"5\rhello\r\n" + END),
        "chunk size line ends in CR CR LF": chunked(b"5\r\r\nhello\r\n" + END),
        "chunk data ends in LF": chunked(b"5\r\nhello\n" + END),
        "chunk data ends in CR": chunked(b"5\r\nhello\r" + END),
        "chunk data ends in LF CR": chunked(b"5\r\nhello\n\r" + END),
        "chunk data ends in two letters": chunked(b"5\r\nhelloXX" + END),
        "chunk data without an end": chunked(b"5\r\nhello" + END),
        "chunk data longer than its size": chunked(b"5\r\nhello!\r\n" + END),
        "chunk data shorter than its size": chunked(b"6\r\nhello\r\n" + END),
        "chunk data empty": chunked(b"5\r\n\r\n" + END),
        "last chunk ends in LF": chunked(b"0\n\n"),
        "last chunk with an LF for the empty line": chunked(b"0\r\n\n"),
        "last chunk with a CR for the empty line": chunked(b"0\r\n\r"),
        "last chunk with a blank": chunked(b"0 \r\n\r\n"),
        "last chunk without the empty line": chunked(b"0\r\n"),
        "extension with an LF": chunked(b"5;a\nb\r\nhello\r\n" + END),
        "extension that an LF would end": chunked(b"5;\nhello\r\n" + END),
        "extension with a bare CR": chunked(b"5;a\rb\r\nhello\r\n" + END),
        "extension with a NUL": chunked(b"5;a=\x00\r\nhello\r\n" + END),
        "extension without a name": chunked(b"5;\r\nhello\r\n" + END),
        "extension without a value": chunked(b"5;a=\r\nhello\r\n" + END),
        "extension with an open quote": chunked(b'5;a="b\r\nhello\r\n' + END),
        "extension with a chunk in its quotes": chunked(b'5;a="\r\n0\r\n\r\n"\r\nhello\r\n' + END),
        "extension without a semicolon": chunked(b"5 a=b\r\nhello\r\n" + END),
        "extension in parentheses": chunked(b"5;(a)\r\nhello\r\n" + END),
        "extension of 5000 bytes": chunked(b"5;" + b"a" * 5000 + b"\r\nhello\r\n" + END),
        "extensions of 64 KiB in all": chunked(b"1;aaaaaaaaaaaaaaaa\r\nx\r\n" * 4000 + END),
        "trailer with a space before the colon": chunked(b"0\r\nX : y\r\n\r\n"),
        "trailer folded": chunked(b"0\r\nX: y\r\n z\r\n\r\n"),
        "trailer that begins with a fold": chunked(b"0\r\n X: y\r\n\r\n"),
        "trailer with a bare LF": chunked(b"0\r\nX: y\nZ: z\r\n\r\n"),
        "trailer with a bare CR": chunked(b"0\r\nX: y\rZ: z\r\n\r\n"),
        "trailer with a NUL": chunked(b"0\r\nX: \x00\r\n\r\n"),
        "trailer without a colon": chunked(b"0\r\nnonsense\r\n\r\n"),
        "trailers ended by LF": chunked(b"0\r\nX: y\r\n\n"),
        "trailers of 20 KiB": chunked(b"0\r\n" + b"X: yyyyyyyyyyyyy\r\n" * 1100 + b"\r\n"),
    },
)

# Lines that do not end in CR LF, folds, blanks and controls where none may be.
_LINES_ENDED = {
    "LF for every line end": b"GET / HTTP/1.1\nHost: a\n\n",
    "LF after the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "LF after a field": b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "LF after the last field": b"GET / HTTP/1.1\r\nHost: a\n\r\n" + CANARY,
    "LF for the empty line": b"GET / HTTP/1.1\r\nHost: a\r\n\n" + CANARY,
    "LF before the request": b"\n" + head(),
    "CR before the request": b"\r" + head(),
    "CR for every line end": b"GET / HTTP/1.1\rHost: a\r\r",
    "CR after the request line": b"GET / HTTP/1.1\rHost: a\r\n\r\n",
    "CR in the method": head(start=b"GE\rT / HTTP/1.1"),
    "CR for the first space": head(start=b"GET\r/ HTTP/1.1"),
    "CR in the target": head(start=b"GET /\r HTTP/1.1"),
    "CR before the request line's end": head(start=b"GET / HTTP/1.1\r"),
    "CR in a field's name": head(b"X\rY: z"),
    "CR before the colon": head(b"X\r: z"),
    "CR after the colon": head(b"X:\rz"),
    "CR before a field's end": head(b"X: z\r"),
    "CR CR LF for the empty line": b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n" + CANARY,
    "LF CR for the empty line": b"GET / HTTP/1.1\r\nHost: a\r\n\n\r" + CANARY,
    "LF in the method": head(start=b"GE\nT / HTTP/1.1"),
    "LF in the target": head(start=b"GET /\n HTTP/1.1"),
    "LF in a field's name": head(b"X\nY: z"),
    "NUL before the request": b"\x00" + head(),
    "NUL in the method": head(start=b"G\x00T / HTTP/1.1"),
    "NUL in the target": head(start=b"GET /\x00 HTTP/1.1"),
    "NUL in the version": head(start=b"GET / HTTP/1.1\x00"),
    "NUL in a field's name": head(b"X\x00: y"),
    "NUL in a field's value": head(b"X: a\x00b"),
    "escape in a field's value": head(b"X: \x1b[2J"),
    "DEL in a field's value": head(b"X: \x7f"),
    "vertical tab in a field's value": head(b"X: a\x0bb"),
    "two empty lines before the request": b"\r\n\r\n" + head(),
    "a space before the request": b" " + head(),
    "a byte order mark before the request": b"\xef\xbb\xbf" + head(),
    "obs-fold": head(b"X: a", b" b"),
    "obs-fold with a tab": head(b"X: a", b"\tb"),
    "obs-fold of an empty line": head(b"X: a", b" "),
    "obs-fold of the first field": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "obs-fold that hides the end": b"GET / HTTP/1.1\r\nHost: a\r\n \r\n\r\n" + CANARY,
    "obs-fold of Host": b"GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n",
    "space before a colon": head(b"X : a"),
    "space before Host's colon": head(host=b"Host : a"),
    "space in a field's name": head(b"X Y: a"),
    "empty field name": head(b": a"),
    "only a colon": head(b":"),
    "no colon": head(b"nonsense"),
    "field name with a slash": head(b"X/Y: a"),
    "field name with a comma": head(b"X,Y: a"),
    "field name in quotes": head(b'"X": a'),
    "field name in Latin-1": head(b"\xc4: a"),
    "field name with DEL": head(b"X\x7f: a"),
    "request line for a field": b"GET / HTTP/1.1\r\nHost: a\r\nGET /canary HTTP/1.1\r\n\r\n",
}
LINES = refused(400, _LINES_ENDED)

# Request lines and targets.
TARGETS = [
    *refused(
        400,
        {
            "HTTP/0.9": b"GET /\r\n\r\n",
            "HTTP/0.9 with fields": b"GET /\r\nHost: a\r\n\r\n",
            "no target": head(start=b"GET HTTP/1.1"),
            "empty target": head(start=b"GET  HTTP/1.1"),
            "two spaces before the target": head(start=b"GET  / HTTP/1.1"),
            "two spaces after the target": head(start=b"GET /  HTTP/1.1"),
            "tabs in the request line": head(start=b"GET\t/\tHTTP/1.1"),
            "vertical tab in the request line": head(start=b"GET\x0b/ HTTP/1.1"),
            "no-break space in the request line": head(start=b"GET\xa0/ HTTP/1.1"),
            "space after the version": head(start=b"GET / HTTP/1.1 "),
            "word after the version": head(start=b"GET / HTTP/1.1 x"),
            "version twice": head(start=b"GET / HTTP/1.1 HTTP/1.1"),
            "space in the target": head(start=b"GET /a b HTTP/1.1"),
            "request in the target": head(start=b"GET / HTTP/1.1 GET /canary HTTP/1.1"),
            "method with a comma": head(start=b"GET, / HTTP/1.1"),
            "method with a colon": head(start=b"GET: / HTTP/1.1"),
            "method in brackets": head(start=b"(GET) / HTTP/1.1"),
            "method empty": head(start=b" / HTTP/1.1"),
            "lower-case version": head(start=b"GET / http/1.1"),
            "mixed-case version": head(start=b"GET / Http/1.1"),
            "version HTTP/1": head(start=b"GET / HTTP/1"),
            "version HTTP/1.": head(start=b"GET / HTTP/1."),
            "version HTTP/.1": head(start=b"GET / HTTP/.1"),
            "version HTTP/1,1": head(start=b"GET / HTTP/1,1"),
            "version HTTP/1.10": head(start=b"GET / HTTP/1.10"),
            "version HTTP/1.01": head(start=b"GET / HTTP/1.01"),
            "version HTTP/01.1": head(start=b"GET / HTTP/01.1"),
            "version HTTP/+1.1": head(start=b"GET / HTTP/+1.1"),
            "version HTTP 1.1": head(start=b"GET / HTTP 1.1"),
            "version ICY/1.1": head(start=b"GET / ICY/1.1"),
            "target without a slash": head(start=b"GET index.html HTTP/1.1"),
            "target with a fragment": head(start=b"GET /#x HTTP/1.1"),
            "target in Latin-1": head(start=b"GET /\xe4 HTTP/1.1"),
            "target with DEL": head(start=b"GET /\x7f HTTP/1.1"),
            "target a question mark": head(start=b"GET ?x HTTP/1.1"),
            "target a backslash": head(start=b"GET \\ HTTP/1.1"),
            "asterisk with GET": head(start=b"GET * HTTP/1.1"),
            "asterisk with more": head(start=b"OPTIONS *x HTTP/1.1"),
            "authority with GET": head(start=b"GET a:80 HTTP/1.1"),
            "absolute target of another host": head(start=b"GET http://b/ HTTP/1.1"),
            "absolute target of another port": head(start=b"GET http://a:81/ HTTP/1.1"),
            "absolute target that starts alike": head(start=b"GET http://a.b/ HTTP/1.1"),
            "absolute target with userinfo": head(start=b"GET http://b@a/ HTTP/1.1"),
            "absolute target with a password": head(start=b"GET http://a:80@b/ HTTP/1.1"),
            "absolute target without a host": head(start=b"GET http:/// HTTP/1.1"),
            "absolute target with a port only": head(start=b"GET http://:80/ HTTP/1.1"),
            "absolute target with one slash": head(start=b"GET http:/a/ HTTP/1.1"),
            "absolute target with a fragment": head(start=b"GET http://a/#b HTTP/1.1"),
            "absolute target with a backslash": head(start=b"GET http://a\\@b/ HTTP/1.1"),
            "absolute target of a file": head(start=b"GET file:///etc/passwd HTTP/1.1"),
            "absolute target without Host": head(start=b"GET http://a/ HTTP/1.1", host=None),
            "script as target": head(start=b"GET javascript:alert(1) HTTP/1.1"),
        },
    ),
    *refused(
        505,
        {
            "HTTP/1.2": head(start=b"GET / HTTP/1.2"),
            "HTTP/1.9": head(start=b"GET / HTTP/1.9"),
            "HTTP/0.9 said so": head(start=b"GET / HTTP/0.9"),
            "HTTP/2.0": head(start=b"GET / HTTP/2.0"),
            "HTTP/2.0 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
            "HTTP/3.0": head(start=b"GET / HTTP/3.0"),
            "HTTP/9.9": head(start=b"GET / HTTP/9.9"),
        },
    ),
    *refused(
        501,
        {
            "CONNECT": head(start=b"CONNECT a:443 HTTP/1.1", host=b"Host: a:443"),
            "CONNECT with the canary": head(start=b"CONNECT a:443 HTTP/1.1", host=b"Host: a:443") + CANARY,
            "CONNECT with a path": head(start=b"CONNECT / HTTP/1.1"),
            "CONNECT with a URL": head(start=b"CONNECT http://a/ HTTP/1.1"),
        },
    ),
    *refused(414, {"target of 70,000 bytes": head(start=b"GET /" + LONG + b" HTTP/1.1")}),
    *refused(
        431,
        {
            "field of 70,000 bytes": head(b"X: " + LONG),
            "field name of 70,000 bytes": head(LONG + b": x"),
            "501 fields": head(*[b"X: y"] * 500),
        },
    ),
]

# Host: exactly one, and a name.
HOSTS = refused(
    400,
    {
        "no Host": head(host=None),
        "Host twice": head(b"Host: a"),
        "Host twice, another": head(b"Host: b"),
        "Host twice in other cases": head(b"hOST: b"),
        "Host twice, the second empty": head(b"Host:"),
        "Host twice in HTTP/1.0": head(b"Host: b", start=b"GET / HTTP/1.0"),
        "Host in a list": head(host=b"Host: a, b"),
        "Host with a space": head(host=b"Host: a b"),
        "Host with a slash": head(host=b"Host: a/b"),
        "Host a URL": head(host=b"Host: http://a"),
        "Host with userinfo": head(host=b"Host: b@a"),
        "Host with a backslash": head(host=b"Host: a\\b"),
        "Host with a question mark": head(host=b"Host: a?b"),
        "Host with a fragment": head(host=b"Host: a#b"),
        "Host with angle brackets": head(host=b"Host: <a>"),
        "Host in quotes": head(host=b'Host: "a"'),
        "Host in Latin-1": head(host=b"Host: \xe4"),
        "Host with a NUL": head(host=b"Host: a\x00"),
        "Host with two ports": head(host=b"Host: a:80:81"),
        "Host with a port that is a word": head(host=b"Host: a:http"),
        "Host with a negative port": head(host=b"Host: a:-80"),
        "Host with a port and a space": head(host=b"Host: a:80 81"),
        "Host with an open bracket": head(host=b"Host: [::1"),
        "Host with a bracket too many": head(host=b"Host: ::1]"),
        "Host with empty brackets": head(host=b"Host: []"),
        "Host with a name in brackets": head(host=b"Host: [name]"),
        "Host with something after the bracket": head(host=b"Host: [::1]x"),
        "Host IPv6 without brackets": head(host=b"Host: ::1"),
    },
)

EXPECTATIONS = refused(
    417,
    {
        "Expect something else": sized(b"hello", b"Expect: 200-ok"),
        "Expect two things": sized(b"hello", b"Expect: 100-continue, x"),
        "Expect nothing": sized(b"hello", b"Expect:"),
    },
)

# What is well-formed, and must be read as it was meant: exactly these requests, none of them the canary in a body.
HIDDEN_BODY = Forwarded("POST", body=CANARY)
WELL_FORMED = [
    Case("plain GET", head(), (Forwarded(),)),
    Case("canary in a body with CL", sized(CANARY), (HIDDEN_BODY,)),
    Case("canary in a chunk", post(TE, body=HIDDEN), (HIDDEN_BODY,)),
    Case(
        "canary in a trailer's value",
        post(TE, body=b"0\r\nX: GET /canary HTTP/1.1\r\n\r\n"),
        (POSTED,),
    ),
    Case("canary in a field", head(b"X: GET /canary HTTP/1.1"), (Forwarded(),)),
    Case(
        "canary in the query",
        head(start=b"GET /?GET%20/canary%20HTTP/1.1%0d%0a HTTP/1.1"),
        (Forwarded(path="/?GET%20/canary%20HTTP/1.1%0d%0a"),),
    ),
    Case("two chunks", post(TE, body=b"3\r\nabc\r\n2\r\nde\r\n" + END), (Forwarded("POST", body=b"abcde"),)),
    Case(
        "chunk that looks like the end", post(TE, body=b"5\r\n" + END + b"\r\n" + END), (Forwarded("POST", body=END),)
    ),
    Case("chunk size with zeros", post(TE, body=b"0005\r\nhello\r\n000\r\n\r\n"), (Forwarded("POST", body=b"hello"),)),
    Case(
        "chunk size in capitals", post(TE, body=b"A\r\n0123456789\r\n" + END), (Forwarded("POST", body=b"0123456789"),)
    ),
    Case("extensions", post(TE, body=b'5;a;b=c;d="e f"\r\nhello\r\n0;x\r\n\r\n'), (Forwarded("POST", body=b"hello"),)),
    Case("extension with blanks", post(TE, body=b"5 ; a = b\r\nhello\r\n" + END), (Forwarded("POST", body=b"hello"),)),
    Case(
        "extension with a quoted semicolon",
        post(TE, body=b'5;a=";\\""\r\nhello\r\n' + END),
        (Forwarded("POST", body=b"hello"),),
    ),
    Case(
        "trailers",
        post(TE, body=b"5\r\nhello\r\n0\r\nX: y\r\nContent-Length: 9\r\n\r\n"),
        (Forwarded("POST", body=b"hello"),),
    ),
    Case(
        "trailers that would smuggle", post(TE, body=b"0\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n"), (POSTED,)
    ),
    Case("TE in capitals", post(b"TRANSFER-ENCODING: CHUNKED", body=HIDDEN), (HIDDEN_BODY,)),
    Case("TE with blanks around", post(b"Transfer-Encoding: \t chunked \t", body=HIDDEN), (HIDDEN_BODY,)),
    Case("TE without a blank", post(b"Transfer-Encoding:chunked", body=HIDDEN), (HIDDEN_BODY,)),
    Case("CL with zeros", post(b"Content-Length: 0005", body=b"hello"), (Forwarded("POST", body=b"hello"),)),
    Case("CL with blanks around", post(b"Content-Length: \t5 \t ", body=b"hello"), (Forwarded("POST", body=b"hello"),)),
    Case("CL 0", post(b"Content-Length: 0"), (POSTED,)),
    Case("GET with a body", head(b"Content-Length: 5") + b"hello", (Forwarded(body=b"hello"),)),
    Case("GET with chunks", head(TE) + HIDDEN, (Forwarded(body=CANARY),)),
    Case(
        "HEAD with a body",
        head(b"Content-Length: 5", start=b"HEAD / HTTP/1.1") + b"hello",
        (Forwarded("HEAD", body=b"hello"),),
    ),
    Case(
        "HTTP/1.0 with a body",
        post(b"Content-Length: 5", body=b"hello", version=b"1.0"),
        (Forwarded("POST", body=b"hello"),),
    ),
    Case("HTTP/1.0 closes after the first", head(start=b"GET / HTTP/1.0") + CANARY, (Forwarded(),)),
    Case(
        "HTTP/1.0 that stays",
        head(b"Connection: keep-alive", start=b"GET / HTTP/1.0") + CANARY,
        (
            Forwarded(),
            GOT_CANARY,
        ),
    ),
    Case("close after the first", head(b"Connection: close") + CANARY, (Forwarded(),)),
    Case("close in a list after the first", head(b"Connection: x, Close ,y") + CANARY, (Forwarded(),)),
    Case("POST without a length has no body", post(body=CANARY), (POSTED, GOT_CANARY)),
    Case("two requests", head() + head(start=b"GET /2 HTTP/1.1"), (Forwarded(), Forwarded(path="/2"))),
    Case(
        "two requests with an empty line between",
        head() + b"\r\n" + head(start=b"GET /2 HTTP/1.1"),
        (
            Forwarded(),
            Forwarded(path="/2"),
        ),
    ),
    Case("empty line before the first", b"\r\n" + head(), (Forwarded(),)),
    Case("request after a body", sized(b"hello") + head(), (Forwarded("POST", body=b"hello"), Forwarded())),
    Case("many canaries in a large body", sized(CANARY * 9000), (Forwarded("POST", body=CANARY * 9000),)),
    Case(
        "request after a large body",
        sized(LONG * 5) + head(),
        (Forwarded("POST", body=LONG * 5), Forwarded()),
    ),
    Case(
        "rubbish after a large body",
        sized(LONG * 5) + b"(" + CANARY,
        (Forwarded("POST", body=LONG * 5),),
        400,
    ),
    Case("large body cut", sized(LONG * 5)[:-1], status=400, is_cut=True),
    Case("request after chunks", post(TE, body=HIDDEN) + head(), (HIDDEN_BODY, Forwarded())),
    Case("request, then a bad one", head() + b"GET / HTTP/1.1\nHost: a\n\n", (Forwarded(),), 400),
    Case("body, then rubbish", sized(b"hello") + b"(world)" + CANARY, (Forwarded("POST", body=b"hello"),), 400),
    Case(
        "body with a line end too many",
        sized(b"hello") + b"\r\n" + head(),
        (
            Forwarded("POST", body=b"hello"),
            Forwarded(),
        ),
    ),
    Case("chunks, then rubbish", post(TE, body=HIDDEN + b"(" + CANARY), (HIDDEN_BODY,), 400),
    Case("chunks, then another last chunk", post(TE, body=END + END + CANARY), (POSTED,), 400),
    Case(
        "Connection names content-length",
        post(b"Connection: content-length", b"Content-Length: 33", body=CANARY),
        (HIDDEN_BODY,),
    ),
    Case("Connection names transfer-encoding", post(b"Connection: transfer-encoding", TE, body=HIDDEN), (HIDDEN_BODY,)),
    Case("Connection names host", head(b"Connection: host"), (Forwarded(),)),
    Case("Connection names x-forwarded-for", head(b"Connection: close, x-forwarded-for"), (Forwarded(),)),
    Case("Connection names cookie", head(b"Connection: cookie", b"Cookie: a"), (Forwarded(),)),
    Case("Proxy-Connection close", head(b"Proxy-Connection: close") + CANARY, (Forwarded(), GOT_CANARY)),
    Case(
        "h2c upgrade that is ignored",
        head(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
        (Forwarded(),),
    ),
    Case(
        "h2c upgrade with a request behind it",
        head(b"Connection: Upgrade", b"Upgrade: h2c") + head(start=b"GET /2 HTTP/1.1"),
        (
            Forwarded(),
            Forwarded(path="/2"),
        ),
    ),
    Case("upgrade with a body", sized(CANARY, b"Connection: Upgrade", b"Upgrade: websocket"), (HIDDEN_BODY,)),
    Case("upgrade that Connection does not name", head(b"Upgrade: websocket"), (Forwarded(),)),
    Case("Expect 100-continue", sized(CANARY, b"Expect: 100-continue"), (HIDDEN_BODY,)),
    Case("Expect in capitals", sized(CANARY, b"Expect: 100-CONTINUE"), (HIDDEN_BODY,)),
    Case("Expect with chunks", post(b"Expect: 100-continue", TE, body=HIDDEN), (HIDDEN_BODY,)),
    Case("Expect without a body", head(b"Expect: 100-continue"), (Forwarded(),)),
    Case(
        "Expect in HTTP/1.0",
        post(b"Content-Length: 5", b"Expect: 100-continue", body=b"hello", version=b"1.0"),
        (Forwarded("POST", body=b"hello"),),
    ),
    Case("absolute target", head(start=b"GET http://a/x?y HTTP/1.1"), (Forwarded(path="/x?y"),)),
    Case("absolute target in capitals", head(start=b"GET HTTP://A/x HTTP/1.1"), (Forwarded(path="/x", host="A"),)),
    Case("absolute target with the usual port", head(start=b"GET http://a:80/ HTTP/1.1"), (Forwarded(host="a:80"),)),
    Case("absolute target without a path", head(start=b"GET http://a HTTP/1.1"), (Forwarded(),)),
    Case("absolute target with a query only", head(start=b"GET http://a?q HTTP/1.1"), (Forwarded(path="/?q"),)),
    Case("absolute target over TLS", head(start=b"GET https://a/ HTTP/1.1"), (Forwarded(),)),
    Case("absolute target in HTTP/1.0", head(start=b"GET http://a/ HTTP/1.0", host=None), (Forwarded(),)),
    Case("asterisk", head(start=b"OPTIONS * HTTP/1.1"), (Forwarded("OPTIONS", "*"),)),
    Case(
        "asterisk as URL",
        head(start=b"OPTIONS http://a HTTP/1.1"),
        (Forwarded("OPTIONS", "*"),),
        differs={"nginx": "asks for /, where RFC 9112, section 3.2.4, says that * is meant"},
    ),
    Case("two slashes", head(start=b"GET //b/x HTTP/1.1"), (Forwarded(path="//b/x"),)),
    Case("dots in the path", head(start=b"GET /x/../y HTTP/1.1"), (Forwarded(path="/x/../y"),)),
    Case("encoded dots in the path", head(start=b"GET /x/%2e%2e/y HTTP/1.1"), (Forwarded(path="/x/%2e%2e/y"),)),
    Case("encoded line end in the path", head(start=b"GET /%0d%0aX:%20y HTTP/1.1"), (Forwarded(path="/%0d%0aX:%20y"),)),
    Case("URL in the path", head(start=b"GET /http://b/ HTTP/1.1"), (Forwarded(path="/http://b/"),)),
    Case("braces in the path", head(start=b'GET /{a}|"b"^\\ HTTP/1.1'), (Forwarded(path='/{a}|"b"^\\'),)),
    Case("Host with a port", head(host=b"Host: a:8080"), (Forwarded(host="a:8080"),)),
    Case("Host with an empty port", head(host=b"Host: a:"), (Forwarded(host="a:"),)),
    Case("Host IPv6", head(host=b"Host: [::1]:80"), (Forwarded(host="[::1]:80"),)),
    Case("Host with capitals", head(host=b"Host: A.Example"), (Forwarded(host="A.Example"),)),
    Case("Host with a final dot", head(host=b"Host: a."), (Forwarded(host="a."),)),
    Case("Host with an underscore", head(host=b"Host: a_b"), (Forwarded(host="a_b"),)),
    Case(
        "no Host in HTTP/1.0",
        head(start=b"GET / HTTP/1.0", host=None),
        (Forwarded(host=""),),
        differs={"haproxy": "names no host where we name our own"},
    ),
    Case("method unknown", head(start=b"BREW / HTTP/1.1"), (Forwarded("BREW"),)),
    Case("method with odd signs", head(start=b"M-SEARCH / HTTP/1.1"), (Forwarded("M-SEARCH"),)),
    Case("method in small letters", head(start=b"get / HTTP/1.1"), (Forwarded("get"),)),
    Case("underscored Content-Length", post(b"Content_Length: 33", body=CANARY), (POSTED, GOT_CANARY)),
    Case(
        "underscored Transfer-Encoding",
        post(b"Transfer_Encoding: chunked", b"Content-Length: 33", body=CANARY),
        (HIDDEN_BODY,),
    ),
    Case("Content-Length with a letter more", post(b"Content-Lengthx: 33", body=CANARY), (POSTED, GOT_CANARY)),
    Case("X-Content-Length", post(b"X-Content-Length: 33", body=CANARY), (POSTED, GOT_CANARY)),
    Case("TE asks for trailers", head(b"TE: trailers", b"Connection: TE"), (Forwarded(),)),
    Case("TE field says chunked", post(b"TE: chunked", body=CANARY), (POSTED, GOT_CANARY)),
    Case(
        "Content-Encoding says chunked",
        post(b"Content-Encoding: chunked", b"Content-Length: 5", body=END),
        (Forwarded("POST", body=END),),
    ),
    Case("method override is somebody else's business", head(b"X-HTTP-Method-Override: POST"), (Forwarded(),)),
    Case("obs-text in a value", head(b"X: \xe4\xff"), (Forwarded(),)),
    Case("empty value", head(b"X:"), (Forwarded(),)),
    Case("colons in a value", head(b"X:::"), (Forwarded(),)),
]

# Cut short by the client: nothing that the application gets looks complete.
CUT = [
    Case("head without an end", b"GET / HTTP/1.1\r\nHost: a\r\n", status=400, is_cut=True),
    Case("head of one byte", b"G", status=400, is_cut=True),
    Case("head that lacks the last LF", head()[:-1], status=400, is_cut=True),
    Case("body shorter than CL", post(b"Content-Length: 100", body=CANARY), status=400, is_cut=True),
    Case("largest CL", post(b"Content-Length: 999999999999999999", body=CANARY), status=400, is_cut=True),
    Case("CL 2^63 less one is too long a number", post(b"Content-Length: 9223372036854775807"), status=400),
    Case("chunk cut", post(TE, body=b"64\r\n" + CANARY), status=400, is_cut=True),
    Case("largest chunk", post(TE, body=b"fffffffffffffff\r\n" + CANARY), status=400, is_cut=True),
    Case("chunk without the last one", post(TE, body=b"5\r\nhello\r\n"), status=400, is_cut=True),
    Case("last chunk cut", post(TE, body=b"5\r\nhello\r\n0\r\n"), status=400, is_cut=True),
    Case("last chunk cut before its last LF", post(TE, body=b"5\r\nhello\r\n0\r\n\r"), status=400, is_cut=True),
    Case("trailers cut", post(TE, body=b"0\r\nX: y\r\n"), status=400, is_cut=True),
    Case("no chunk at all", post(TE), status=400, is_cut=True),
]

CASES: Final[list[Case]] = [
    *LENGTHS,
    *CODINGS,
    *CHUNKS,
    *LINES,
    *TARGETS,
    *HOSTS,
    *EXPECTATIONS,
    *WELL_FORMED,
    *CUT,
]
