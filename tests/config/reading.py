"""Reads config texts the way the tests of this room want them: as a user, in /srv/shop."""

from __future__ import annotations

from collections.abc import Mapping

from rollbridge.config.issues import ConfigError, ConfigIssue
from rollbridge.config.model import Config
from rollbridge.config.parse import parse_config

SOURCE_PATH = "/srv/shop/rollbridge.toml"
WEB = '[processes.web]\npolicy = "proxied"\ncommand = "serve"\nport = { from = 18182, to = 18299 }\n'


def parse(text: str, environ: Mapping[str, str] | None = None, *, uid: int = 1000, path: str = SOURCE_PATH) -> Config:
    return parse_config(text.encode(), path, environ or {}, uid=uid)


def issues_of(text: str | bytes, environ: Mapping[str, str] | None = None, *, uid: int = 1000) -> list[ConfigIssue]:
    """Return what is wrong with ``text``; empty when nothing is."""
    data = text.encode() if isinstance(text, str) else text
    try:
        parse_config(data, SOURCE_PATH, environ or {}, uid=uid)
    except ConfigError as error:
        assert error.issues
        return list(error.issues)
    return []


def issue_of(text: str | bytes, environ: Mapping[str, str] | None = None) -> ConfigIssue:
    """Return the only thing wrong with ``text``."""
    issues = issues_of(text, environ)
    assert len(issues) == 1, issues
    return issues[0]
