from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rollbridge.config.lines import LineMap
from rollbridge.config.showing import Path

TEXT = '''# a comment = 1
application = "x"   # [proxy]

[proxy] # the proxy
host = "a"
  "quoted key" = 1
'literal.key' = 2
"esc\\u0061ped" = 3
dotted.inner.key = 4

[processes.web]
command = """
[processes.fake]
port = 1
\\""" still """
after = \'\'\'
x = 1
\'\'\'\'
array = [
  "one", # ]
  { name = "two", includes = [
     "deep",
  ] },
]
inline = { from = 1, to = { very = "deep" } }
number = 1_000.5

[ spaced . "out" ]
key = 1979-05-27T07:32:00Z

[[many]]
name = 1
[[many]]
name = 2
[many.sub]
x = 1
[[many.list]]
y = 2
[[many.list]]
y = 3
'''


def test_lines_of_keys_are_found_wherever_they_stand() -> None:
    lines = LineMap(TEXT)
    expected: dict[Path, int] = {
        ("application",): 2,
        ("proxy",): 4,
        ("proxy", "host"): 5,
        ("proxy", "quoted key"): 6,
        ("proxy", "literal.key"): 7,
        ("proxy", "escaped"): 8,
        ("proxy", "dotted", "inner", "key"): 9,
        ("proxy", "dotted"): 9,
        ("processes", "web"): 11,
        ("processes", "web", "command"): 12,
        ("processes", "web", "after"): 16,
        ("processes", "web", "array"): 19,
        ("processes", "web", "array", 0): 20,
        ("processes", "web", "array", 1, "includes"): 21,
        ("processes", "web", "array", 1, "includes", 0): 22,
        ("processes", "web", "inline", "to", "very"): 25,
        ("processes", "web", "number"): 26,
        ("spaced", "out", "key"): 29,
        ("many", 0, "name"): 32,
        ("many", 1, "name"): 34,
        ("many", 1, "sub", "x"): 36,
        ("many", 1, "list", 1, "y"): 40,
    }
    assert {path: lines.find(path) for path in expected} == expected
    tomllib.loads(TEXT)  # the example is TOML


def test_what_is_absent_has_the_line_of_the_table_around_it() -> None:
    lines = LineMap(TEXT)
    assert lines.find(("processes", "web", "port", "from")) == 11
    assert lines.find(("processes", "web", "inline", "nope")) == 25
    assert lines.find(("nothing",)) is None
    assert lines.find(("processes",)) == 11
    assert lines.find(("processes", "fake", "port")) == 11  # what stands in a text is no section


@given(st.text(alphabet="ab.[]{}=\"'#\\,\n 1", max_size=80))
def test_any_toml_has_a_line_for_each_of_its_keys_and_any_other_text_does_no_harm(text: str) -> None:
    lines = LineMap(text)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    for path in _paths(tables, ()):
        assert lines.find(path) is not None
        assert path in lines._lines


def _paths(value: Any, path: Path) -> list[Path]:
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in [(*path, key), *_paths(item, (*path, key))]]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in _paths(item, (*path, index))]
    return []
