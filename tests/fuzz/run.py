"""Fuzz one target: ``python -m tests.fuzz.run TARGET --executions 1000000``.

With atheris (libFuzzer, guided by the coverage of the proxy's readers and of the second reading) where it is
installed, else with the plain mutating driver. atheris keeps inputs that reach something new in ``--corpus``, where
both find seeds beside those in corpus/; an input that a target fails on is written to ``crash-...`` in
``--artifacts`` (the plain driver names it in its error) and can be tried again with ``--input FILE``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path

from tests.fuzz import mutation

SEEDS = Path(__file__).parent / "corpus"
TARGET_NAMES = ("request_heads", "chunked_bodies", "request_streams", "response_heads")


def seeds_of(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((SEEDS / target).iterdir())]


def dictionary() -> str:
    """The tokens in libFuzzer's syntax."""
    return "".join('"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n' for token in mutation.TOKENS)


def run_atheris(options: argparse.Namespace, scratch: Path) -> None:
    """Does not return: libFuzzer ends the process."""
    atheris = importlib.import_module("atheris")  # not to be had everywhere, and without types

    with atheris.instrument_imports(include=["rollbridge.proxy", "tests.fuzz.second_reading"]):
        targets = importlib.import_module("tests.fuzz.targets")
    (scratch / "tokens").write_text(dictionary())
    corpus = Path(options.corpus or scratch / "corpus")
    corpus.mkdir(exist_ok=True)
    arguments = [
        f"-runs={options.executions}",
        f"-max_total_time={options.seconds}",
        f"-max_len={mutation.MAX_BYTES}",
        "-timeout=10",
        f"-seed={options.seed}",
        f"-dict={scratch / 'tokens'}",
        f"-artifact_prefix={options.artifacts}/",
        "-print_final_stats=1",
        str(corpus),
        str(SEEDS / options.target),
    ]
    atheris.Setup([sys.argv[0], *arguments], targets.TARGETS[options.target])
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz one of the proxy's readers.")
    parser.add_argument("target", choices=TARGET_NAMES)
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", help="directory of further seeds, for new ones too (default: thrown away)")
    parser.add_argument("--artifacts", default=".", help="directory for inputs that fail")
    parser.add_argument("--input", help="run this file once, and nothing else")
    parser.add_argument("--plain", action="store_true", help="use the mutating driver even with atheris")
    options = parser.parse_args()
    if not options.input and not options.plain and importlib.util.find_spec("atheris") is not None:
        with tempfile.TemporaryDirectory() as scratch:
            run_atheris(options, Path(scratch))
    targets = importlib.import_module("tests.fuzz.targets")
    target = targets.TARGETS[options.target]
    if options.input:
        print(target(Path(options.input).read_bytes()))
        return 0
    seeds = seeds_of(options.target)
    if options.corpus:
        seeds += [path.read_bytes() for path in sorted(Path(options.corpus).iterdir())]
    count, outcomes = mutation.run(target, seeds, options.executions, options.seconds, options.seed)
    print(f"{count} executions, outcomes: {sorted(map(str, outcomes))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
