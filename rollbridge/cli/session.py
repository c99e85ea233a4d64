"""The daemon a command talks to: found through the config file, asked over the control socket."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from rollbridge.cli.errors import CliError
from rollbridge.config.load import load_client_settings
from rollbridge.control.client import AskAgain, ControlClient, DaemonWentAway

if TYPE_CHECKING:
    from rollbridge.config.reach import ClientSettings

Request = dict[str, object]


def absolute_path(path: str) -> str:
    """Return ``path`` against the working directory; raise CliError when that is gone."""
    try:
        return os.path.abspath(path)  # noqa: PTH100 - pathlib costs a client command several milliseconds
    except FileNotFoundError as error:
        raise CliError(
            "the working directory does not exist any more. Change to another, or use absolute paths."
        ) from error


def settings_of(args: argparse.Namespace) -> ClientSettings:
    """Return how to reach the daemon; raise ConfigError when the file does not say."""
    return load_client_settings(absolute_path(args.config), os.environ)


def client_of(args: argparse.Namespace) -> ControlClient:
    """Return a client for the daemon of ``args.config``, to be entered."""
    control = settings_of(args).control
    return ControlClient(control.path, control.owner)


def ask(args: argparse.Namespace, request: Request) -> Request:
    """Return the daemon's answer to a request that changes nothing, and that it answers at once.

    Made a second time when the daemon went away in that moment: it may have gone on as another version.
    """
    try:
        with client_of(args) as client:
            return client.request(request)
    except (AskAgain, DaemonWentAway):
        with client_of(args) as client:
            return client.request(request)


def watch(args: argparse.Namespace, request: Request, on_progress: Callable[[Request], None]) -> Request:
    """Ask for something that goes on until somebody ends it; ``on_progress`` gets what comes.

    Raises AskAgain when the daemon goes on as another version.
    """
    with client_of(args) as client:
        return client.request(request, on_progress, timeout=None)
