from __future__ import annotations

import datetime

from rollbridge.config.showing import SHOWN_CHARACTERS, dotted, show_text, show_value


def test_shown_text_cannot_act_on_a_terminal() -> None:
    assert show_text('a\x1b[31m"\\\n\u202e') == '"a\\x1b[31m\\"\\\\\\n\\u202e"'


def test_shown_text_is_bounded() -> None:
    shown = show_text("x" * 100_000)
    assert len(shown) == SHOWN_CHARACTERS + 3
    assert shown.endswith('…"')


def test_every_toml_value_can_be_shown_in_one_short_line() -> None:
    shown = [
        show_value(value)
        for value in (True, 1, -1.5, float("nan"), float("inf"), 10**5000, "x", [1], [], {}, {"a": 1},
                      datetime.date(1979, 5, 27), datetime.time(7, 32))
    ]  # fmt: skip
    assert shown == [
        "true", "1", "-1.5", "nan", "inf", "a very large number", '"x"', "an array", "an empty array", "an empty table",
        "a table", "the date or time 1979-05-27", "the date or time 07:32:00",
    ]  # fmt: skip


def test_dotted_path_quotes_what_needs_quotes() -> None:
    assert dotted(("processes", "web", "command", 2)) == "processes.web.command[2]"
    assert dotted(("env", "a b")) == 'env."a b"'
    assert dotted(()) == ""
