"""Results on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping


def print_result(args: argparse.Namespace, result: Mapping[str, object], text: str) -> None:
    """Print ``result`` as one JSON object with ``--json``, else ``text`` (nothing when it is empty)."""
    if args.json:
        print(json.dumps(result))
    elif text:
        print(text)


def print_note(text: str) -> None:
    """Print a sentence of progress or an error on stderr."""
    print(text, file=sys.stderr, flush=True)
