"""Every example is a config that validates, and the complete one names every setting there is."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from rollbridge.config.export import to_toml
from rollbridge.config.load import load_config
from rollbridge.config.parse import parse_config

EXAMPLES = Path(__file__).parent.parent / "examples"
DOCS = Path(__file__).parent.parent / "docs" / "configuration.md"
CONFIGS = sorted(EXAMPLES.glob("*.toml"))

SETTINGS = {
    "application", "runtime_dir", "state_path", "control", "path", "mode", "owner", "group", "proxy", "host", "port",
    "upstream_host", "health_path", "health_timeout", "drain_timeout", "force_stop_timeout", "workers", "hold_timeout",
    "head_timeout", "idle_timeout", "response_timeout", "max_head", "max_connections", "trusted_proxies", "access_log",
    "release_retention", "keep", "max_age", "processes", "policy", "command", "cwd", "env", "from", "to", "health",
    "timeout", "interval", "start_delay", "replicas", "stop_signal", "graceful_stop", "non_blocking_drain",
    "output_lines", "restart_delay", "restart", "max_restarts", "window", "backoff_factor", "max_delay", "memory",
    "limit", "warn", "check_interval", "lifecycle", "quiet_command", "deploy_strategy", "legacy_takeover", "screens",
    "name", "includes", "pid_files", "systemd_units", "supervisord_programs", "pm2_apps", "commands",
    "env_file", "env_command", "user", "supplementary_groups", "umask", "nice", "limits", "kill_mode",
    "no_restart_codes", "cgroup", "memory_max", "cpu_max", "pids_max",
}  # fmt: skip


def test_there_are_examples() -> None:
    assert {path.name for path in CONFIGS} >= {"rollbridge.toml", "python-web-with-workers.toml", "node.toml"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_example_validates_and_survives_being_written(path: Path) -> None:
    config = load_config(str(path), {})
    read = parse_config(to_toml(config).encode(), config.source_path, {}, uid=1000)
    assert read == config


def test_complete_example_has_every_setting() -> None:
    words = set(re.findall(r"[a-z0-9_]+", (EXAMPLES / "rollbridge.toml").read_text()))
    assert words >= SETTINGS


def test_defaults_shown_in_the_complete_example_are_the_defaults() -> None:
    text = (EXAMPLES / "rollbridge.toml").read_text()
    config = load_config(str(EXAMPLES / "rollbridge.toml"), {})
    shown = re.sub(r'^# (?=(?!runtime_dir|path|owner|command = "g)[a-z_]+ = )', "", text, flags=re.MULTILINE)
    assert shown != text
    everything = parse_config(shown.encode(), config.source_path, {}, uid=1000)
    without_runtime_dir = dataclasses.replace(everything, runtime_dir=config.runtime_dir)
    assert without_runtime_dir == config


def test_reference_has_every_setting() -> None:
    words = set(re.findall(r"[a-z0-9_]+", DOCS.read_text()))
    assert words >= SETTINGS | {"drain_command", "stop_command"}


def test_configs_in_the_reference_validate() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    assert blocks
    web = '[processes.web]\npolicy = "proxied"\ncommand = "serve"\nport = "18182-18299"\n'
    for block in blocks:
        text = block if 'policy = "proxied"' in block else f"{block}\n{web}"
        parse_config(text.encode(), "/srv/shop/rollbridge.toml", {}, uid=1000)
