"""Templates: ``{{name}}`` in the strings of the config. Expanded here and nowhere else.

``{{{{`` writes a literal ``{{``. ``{{env.NAME}}`` must be set; ``{{env.NAME:-fallback}}`` takes the fallback, literal
text, when NAME is unset or empty (as in a shell). Placeholders do not nest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from rollbridge.config.issues import BadValue
from rollbridge.config.showing import show_text

_MARK = re.compile(r"\{\{\{\{|\{\{")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LITERAL_BRACES = "{{{{"
_MOST_PROBLEMS_SHOWN = 20  # of one text
_MOST_NAMES_SHOWN = 25  # every name we have, and a dozen of ports

START_NAMES = (
    "application",
    "release_id",
    "release_path",
    "revision",
    "process_id",
    "replica_index",
    "replica_count",
    "port",
    "proxy.host",
    "proxy.port",
    "proxy.upstream_host",
)


def split_template(text: str) -> Iterator[tuple[bool, str]]:
    """Yield the parts of ``text``: (False, literal text) and (True, what stands between the braces).

    Raises BadValue when a placeholder is not closed.
    """
    position = 0
    while mark := _MARK.search(text, position):
        yield False, text[position : mark.start()]
        position = mark.end()
        if mark.group() == LITERAL_BRACES:
            yield False, "{{"
            continue
        end = text.find("}}", position)
        if end < 0:
            raise BadValue(
                f"the placeholder {show_text('{{' + text[position:], 30)} is not closed",
                "close it with }}, or write {{{{ for two literal braces",
            )
        yield True, text[position:end].strip()
        position = end + 2
    yield False, text[position:]


def placeholders(text: str) -> list[str]:
    """Return what stands between the braces of each placeholder; raise BadValue when one is not closed."""
    return [part for is_placeholder, part in split_template(text) if is_placeholder]


def has_placeholder(text: str) -> bool:
    return any(mark.group() != LITERAL_BRACES for mark in _MARK.finditer(text))


def literal(text: str) -> str:
    """Return the template whose expansion is ``text``."""
    return text.replace("{{", LITERAL_BRACES)


def expand(
    text: str, values: Mapping[str, str], environ: Mapping[str, str], absent: Mapping[str, BadValue] | None = None
) -> str:
    """Return ``text`` with every placeholder replaced from ``values`` and ``environ``.

    ``absent`` says why a name that exists elsewhere has no value here. Raises BadValue.
    """
    if "{{" not in text:
        return text
    return "".join(
        _value_of(part, values, environ, absent or {}) if is_placeholder else part
        for is_placeholder, part in split_template(text)
    )


def problems(
    text: str, values: Mapping[str, str], environ: Mapping[str, str], absent: Mapping[str, BadValue]
) -> list[BadValue]:
    """Return why ``text`` could not be expanded, one for each placeholder that has no value."""
    found: dict[str, BadValue] = {}
    try:
        for is_placeholder, part in split_template(text):
            if not is_placeholder or part in found:
                continue
            try:
                _value_of(part, values, environ, absent)
            except BadValue as bad:
                found[part] = bad
            if len(found) == _MOST_PROBLEMS_SHOWN:
                break
    except BadValue as bad:  # one that is not closed
        return [*found.values(), bad]
    return [*found.values()]


def _value_of(
    placeholder: str, values: Mapping[str, str], environ: Mapping[str, str], absent: Mapping[str, BadValue]
) -> str:
    if placeholder.startswith("env."):
        return _environment_value(placeholder[len("env.") :], environ)
    if placeholder in values:
        return values[placeholder]
    if placeholder in absent:
        raise absent[placeholder]
    name, dash, fallback = placeholder.partition(":-")
    if dash and name in values:
        raise BadValue(
            f"{{{{{name}}}}} takes no fallback, only env.<NAME> does", f"write {{{{{name}}}}} without :-{fallback[:20]}"
        )
    raise BadValue(f"there is no placeholder {show_text('{{' + placeholder + '}}')}", _name_fix(placeholder, values))


def _environment_value(inner: str, environ: Mapping[str, str]) -> str:
    name, dash, fallback = inner.partition(":-")
    if not _ENVIRONMENT_NAME.fullmatch(name):
        raise BadValue(
            f"{show_text(name)} in {show_text('{{env.' + inner + '}}')} is not the name of an environment variable",
            "write {{env.NAME}} or {{env.NAME:-fallback}}",
        )
    if "{{" in fallback:
        raise BadValue(
            f"the fallback of {{{{env.{name[:40]}}}}} has a placeholder in it",
            "write a fallback of plain text; placeholders do not nest",
        )
    value = environ.get(name)
    if dash:
        return value or fallback
    if value is None:
        raise BadValue(f"the environment variable {name[:60]} is not set", _environment_fix(name, environ))
    return value


def _environment_fix(name: str, environ: Iterable[str]) -> str:
    meant = _nearest(name, environ)
    hint = f"did you mean {{{{env.{meant}}}}}? Otherwise " if meant else ""
    return f"{hint}set {name[:60]}, or give a fallback: {{{{env.{name[:60]}:-value}}}}"


def _name_fix(placeholder: str, names: Iterable[str]) -> str:
    known = ["env.NAME", *names]
    meant = _nearest(placeholder, known)
    if meant:
        return f"did you mean {{{{{meant}}}}}? For two literal braces write {{{{{{{{"
    return f"use one of {', '.join(known[:_MOST_NAMES_SHOWN])}; for two literal braces write {{{{{{{{"


def _nearest(word: str, known: Iterable[str]) -> str | None:
    # Not at the top: client commands load this module and hardly ever need difflib. The daemon
    # has it from its first reading of the config, which imports it at the top.
    from rollbridge.config.suggest import nearest

    return nearest(word, known)
