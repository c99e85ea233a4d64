"""Results on stdout, everything else on stderr; what cannot be written is said once, or not at all."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from typing import TextIO

from rollbridge.cli.errors import CliError


class ReaderGone(Exception):
    """Whoever read our stdout (``| head``) has had enough; not an error, and nothing to tell."""


def print_result(args: argparse.Namespace, result: Mapping[str, object], text: str) -> None:
    """Print ``result`` as one JSON object with ``--json``, else ``text`` (nothing when it is empty).

    Raises CliError when stdout cannot be written, ReaderGone when nobody reads it any more.
    """
    if args.json:
        print_line(json.dumps(result))
    elif text:
        print_line(text)


def print_line(text: str) -> None:
    """Write ``text`` and a newline to stdout, now; raises as ``print_result`` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _discard(sys.stdout)
        raise ReaderGone from None
    except OSError as error:
        _discard(sys.stdout)
        raise CliError(f"the result cannot be written to stdout: {error.strerror}") from error


def print_note(text: str) -> None:
    """Write a sentence of progress, or an error, to stderr."""
    write_note(sys.stderr, f"{text}\n")


def write_note(stream: TextIO, text: str) -> None:
    """Write ``text`` to ``stream``, now; a stream that is gone must not end a deploy half-way."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        _discard(stream)  # there is nowhere left to complain


def prepare_streams() -> None:
    """Make stdout and stderr take everything: closed ones nowhere, what the locale cannot show as an escape."""
    # Closed by the caller (`>&-`): without a stand-in the next file that is opened would get our messages.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open for as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _discard(stream: TextIO) -> None:
    """Send what is still buffered nowhere, so that the interpreter does not fail on it when it exits."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()
