from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbridge.config.dotenv import BadLine, parse_dotenv


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("", {}),
        ("\n  \n# only a comment\n", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\n", {"A": "1", "B": "2"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("\ufeffA=1", {"A": "1"}),
        ("export A=1\n  export\tB=2", {"A": "1", "B": "2"}),
        ("A = 1 2 \n", {"A": "1 2"}),
        ("A=\nB=''\nC=\"\"\n", {"A": "", "B": "", "C": ""}),
        ("A=\n\nB=x", {"A": "", "B": "x"}),
        ("A=1 # said\nB=1#2\nC=# said", {"A": "1", "B": "1#2", "C": ""}),
        ("A='1 # 2' # said\nB=\"#\"", {"A": "1 # 2", "B": "#"}),
        ("A=it's\nB=a\"b", {"A": "it's", "B": 'a"b'}),
        ("A='$X \\n'", {"A": "$X \\n"}),
        ("A=$X${Y}`z`", {"A": "$X${Y}`z`"}),
        (r'A="\n\t\r\\\"\$\q"', {"A": '\n\t\r\\"$\\q'}),
        ("A='one\ntwo'\nB=\"three\n four\"", {"A": "one\ntwo", "B": "three\n four"}),
        ("A==1==", {"A": "=1=="}),
        ("A=1\nA=2", {"A": "2"}),
        ("a.b-c=1", {"a.b-c": "1"}),
        ("A=é版", {"A": "é版"}),
    ],
)
def test_variables_are_read(text: str, variables: dict[str, str]) -> None:
    assert parse_dotenv(text) == variables


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("A=1\nhunter2\n", "line 2 is not NAME=value"),
        ("=1", "line 1 is not NAME=value"),
        ("1A=1", "line 1 is not NAME=value"),
        ("A B=1", "line 1 is not NAME=value"),
        ("A=1\n\nB='x\n\n", "line 3 opens a quote that is not closed"),
        ('A="x\\"', "line 1 opens a quote that is not closed"),
        ("A='x'y", "line 1 goes on after the closing quote"),
        ("A='x\ny' z", "line 2 goes on after the closing quote"),
        ("A=a\0b", "line 1 has a NUL character in its value"),
        ("\nROLLBRIDGE_INSTANCE=x", "line 2 sets ROLLBRIDGE_INSTANCE"),
    ],
)
def test_what_is_no_assignment_is_told_by_its_line_and_never_quoted(text: str, problem: str) -> None:
    with pytest.raises(BadLine) as caught:
        parse_dotenv(text)
    assert str(caught.value).startswith(problem)
    assert "hunter2" not in str(caught.value)


@given(
    st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,5}", fullmatch=True), st.text().filter(lambda v: "\0" not in v))
)
def test_what_is_written_in_double_quotes_is_read_back(variables: dict[str, str]) -> None:
    def quoted(value: str) -> str:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r")
        return f'"{escaped}"'

    assert parse_dotenv("".join(f"{name}={quoted(value)}\n" for name, value in variables.items())) == variables


@given(st.text(st.sampled_from("AB=\"'\\ #\n\t$é\0")))
def test_every_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_dotenv(text)
    except BadLine:
        return
    assert set("".join(found)) <= set("AB")
