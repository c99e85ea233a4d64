from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollbridge.config.issues import BadValue
from rollbridge.config.templates import expand, has_placeholder, literal, placeholders, problems

VALUES = {"port": "18182", "ports.broker": "7331", "release_path": "/srv/r42", "replica_index": "0"}
ENVIRON = {"HOME": "/home/deploy", "EMPTY": "", "BRACES": "{{port}}"}


@pytest.mark.parametrize(
    ("template", "expanded"),
    [
        ("plain", "plain"),
        ("", ""),
        ("--bind 127.0.0.1:{{port}} app", "--bind 127.0.0.1:18182 app"),
        ("{{ port }}{{ports.broker}}", "181827331"),
        ("{{env.HOME}}/x", "/home/deploy/x"),
        ("{{env.NONE:-8182}}", "8182"),
        ("{{env.NONE:-}}", ""),
        ("{{env.NONE:-a:-b}}", "a:-b"),
        ("{{env.EMPTY:-8182}}", "8182"),
        ("{{env.EMPTY}}", ""),
        ("{{env.HOME:-/nowhere}}", "/home/deploy"),
        ("{{{{port}}", "{{port}}"),
        ("{{{{{{{{", "{{{{"),
        ("{{{{{{port}}", "{{18182"),
        ("{{{{{", "{{{"),
        ('{"port":{{port}}}', '{"port":18182}'),
        ("a } b }} { c", "a } b }} { c"),
        ("awk '{print $1}'", "awk '{print $1}'"),
    ],
)
def test_template_expands(template: str, expanded: str) -> None:
    assert expand(template, VALUES, ENVIRON) == expanded


def test_value_with_braces_is_not_expanded_again() -> None:
    assert expand("{{env.BRACES}}", VALUES, ENVIRON) == "{{port}}"


@pytest.mark.parametrize(
    ("template", "message", "fix"),
    [
        ("{{prot}}", 'there is no placeholder "{{prot}}"', "did you mean {{port}}?"),
        ("{{ports.brokr}}", 'no placeholder "{{ports.brokr}}"', "did you mean {{ports.broker}}?"),
        ("{{zzzzzz}}", "no placeholder", "use one of env.NAME, port, ports.broker, release_path, replica_index"),
        ("{{}}", 'no placeholder "{{}}"', "use one of"),
        ("{{port", 'placeholder "{{port" is not closed', "close it with }}"),
        ("{{env.HOM}}", "variable HOM is not set", "did you mean {{env.HOME}}?"),
        ("{{env.HOM}}", "variable HOM is not set", "{{env.HOM:-value}}"),
        ("{{env.1X}}", '"1X" in "{{env.1X}}" is not the name', "{{env.NAME}}"),
        ("{{env.}}", "is not the name", "{{env.NAME}}"),
        ("{{env.X:-{{env.Y}}}}", "has a placeholder in it", "do not nest"),
        ("{{port:-8182}}", "{{port}} takes no fallback", "write {{port}} without"),
    ],
)
def test_bad_placeholder_is_named_with_the_nearest_valid_one(template: str, message: str, fix: str) -> None:
    with pytest.raises(BadValue) as caught:
        expand(template, VALUES, ENVIRON)
    assert message in caught.value.message
    assert fix in caught.value.fix


def test_every_bad_placeholder_of_a_text_is_found() -> None:
    found = problems("{{a1}} {{port}} {{env.NOPE}} {{a1}} {{b2}} {{", VALUES, ENVIRON, {})
    assert [bad.message for bad in found] == [
        'there is no placeholder "{{a1}}"',
        "the environment variable NOPE is not set",
        'there is no placeholder "{{b2}}"',
        'the placeholder "{{" is not closed',
    ]


def test_ten_thousand_bad_placeholders_are_told_by_the_first_few() -> None:
    assert len(problems("".join(f"{{{{x{number}}}}}" for number in range(10_000)), VALUES, ENVIRON, {})) == 20


def test_placeholders_are_listed_without_literals() -> None:
    assert placeholders("{{{{no}} {{port}} {{env.A:-b}}") == ["port", "env.A:-b"]
    assert not has_placeholder("{{{{no}}")
    assert has_placeholder("{{{{{{port}}")


@given(st.text(alphabet="{}a.-", max_size=30))
def test_every_text_can_be_written_literally(text: str) -> None:
    assert expand(literal(text), VALUES, ENVIRON) == text


@given(st.text(alphabet="{}port.env:-A ", max_size=40))
def test_any_text_expands_or_says_why_not(text: str) -> None:
    try:
        expand(text, VALUES, ENVIRON)
    except BadValue as bad:
        assert bad.message
        assert bad.fix
        assert problems(text, VALUES, ENVIRON, {})
    else:
        assert not problems(text, VALUES, ENVIRON, {})
