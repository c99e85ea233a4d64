"""Which line of the file a setting stands on.

``tomllib`` keeps no positions, so the text, already known to be TOML, is walked once more; only when there is
something to report.
"""

from __future__ import annotations

import bisect
import contextlib
import re
import tomllib

from rollbridge.config.showing import Path

_BLANK = re.compile(r"[ \t]*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY_PART = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""")
_VALUE_TEXT = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}(?!")' r"|'''.*?'{3,5}(?!')" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'" r"|[^,\]}\n#]+",
    re.DOTALL,
)


class _NotUnderstood(Exception):
    """The walk lost its way; what was found until then is used."""


class LineMap:
    """The lines of the keys of one TOML text."""

    def __init__(self, text: str) -> None:
        walk = _Walk(text)
        # The lines found until then are right; the others are not shown.
        with contextlib.suppress(_NotUnderstood, RecursionError):
            walk.document()
        self._lines = walk.lines

    def find(self, path: Path) -> int | None:
        """Return the line (from 1) of ``path``, or of the innermost table around it that has one."""
        for length in range(len(path), 0, -1):
            line = self._lines.get(path[:length])
            if line is not None:
                return line
        return None


class _Walk:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}  # how many [[tables]] of a name so far
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def document(self) -> None:
        section: Path = ()
        self._skip(_BLANK_LINES)
        while self.position < len(self.text):
            if self.text.startswith("[[", self.position):
                section = self._header(2)
            elif self.text.startswith("[", self.position):
                section = self._header(1)
            else:
                self._setting(section)
            self._skip(_BLANK_LINES)

    def _header(self, brackets: int) -> Path:
        line = self._line()
        self.position += brackets
        *outer, last = self._key()
        self.position += brackets
        section: Path = ()
        for part in outer:
            self._note((*section, part), line)
            section = self._in_last((*section, part))
        section = (*section, last)
        self._note(section, line)
        if brackets == 2:
            self._counts[section] = self._counts.get(section, 0) + 1
        section = self._in_last(section)
        self._note(section, line)
        return section

    def _in_last(self, path: Path) -> Path:
        return (*path, self._counts[path] - 1) if path in self._counts else path

    def _setting(self, section: Path) -> None:
        line = self._line()
        path = section
        for part in self._key():
            path = (*path, part)
            self._note(path, line)
        self._expect("=")
        self._skip(_BLANK)
        self._value(path)

    def _key(self) -> list[str]:
        parts = []
        while True:
            self._skip(_BLANK)
            match = _KEY_PART.match(self.text, self.position)
            if match is None:
                raise _NotUnderstood
            parts.append(_key_text(match.group()))
            self.position = match.end()
            self._skip(_BLANK)
            if not self.text.startswith(".", self.position):
                return parts
            self.position += 1

    def _value(self, path: Path) -> None:
        start = self.text[self.position : self.position + 1]
        if start == "[":
            self._items("]", path, is_table=False)
        elif start == "{":
            self._items("}", path, is_table=True)
        else:
            match = _VALUE_TEXT.match(self.text, self.position)
            if match is None:
                raise _NotUnderstood
            self.position = match.end()

    def _items(self, end: str, path: Path, *, is_table: bool) -> None:
        self.position += 1
        index = 0
        while True:
            self._skip(_BLANK_LINES)
            if self.text.startswith(end, self.position):
                self.position += 1
                return
            if is_table:
                self._setting(path)
            else:
                self._note((*path, index), self._line())
                self._value((*path, index))
            index += 1
            self._skip(_BLANK_LINES)
            if not self.text.startswith(end, self.position):
                self._expect(",")

    def _expect(self, text: str) -> None:
        if not self.text.startswith(text, self.position):
            raise _NotUnderstood
        self.position += len(text)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.position)
        assert match is not None  # both patterns match the empty text
        self.position = match.end()

    def _line(self) -> int:
        return bisect.bisect_right(self._starts, self.position)

    def _note(self, path: Path, line: int) -> None:
        self.lines.setdefault(path, line)


def _key_text(raw: str) -> str:
    if raw.startswith("'"):
        return raw[1:-1]
    if not raw.startswith('"'):
        return raw
    if "\\" not in raw:
        return raw[1:-1]
    try:
        text: str = tomllib.loads(f"key = {raw}")["key"]
    except tomllib.TOMLDecodeError as error:
        raise _NotUnderstood from error
    return text
