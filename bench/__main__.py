"""`python -m bench [NAME ...] [--peer NAME=FOLDER ...] [--repeats N] [--json FILE]`: what this machine can measure.

A benchmark is a module of this package with `run(given) -> Iterator[Result]`. What needs something that is not there
comes last in it, since Missing ends it; that is said, and what was measured before stays.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path

from bench.harness import Given, Missing, Report, machine

# Benchmark -> what it measures. Those that take longest come last.
BENCHMARKS: dict[str, str] = {
    "commands": "whole processes of tmrc-submit and tmrc status",
    "loader": "the feed of training, document ids, the order of samples",
    "checkpoint": "how long a save holds training up",
    "sweep": "submitting a hundred runs (minutes)",
    "report": "tmrc report on a sweep of 200 runs (minutes)",
    "cpu_training": "training steps on a CPU against nanoGPT's (minutes)",
    "tracking": "training with Weights & Biases, well or broken (minutes)",
    "restart": "from a job's start to its first step, new and requeued (a quarter of an hour)",
    "gpu": "throughput, utilisation, memory and kernels of training on one GPU (minutes)",
}


PEERS = {"tatm": "KempnerInstitute/tatm", "nanogpt": "karpathy/nanoGPT", "tmrc": "KempnerInstitute/tmrc"}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks; returns 1 when an aim is missed, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all of {', '.join(BENCHMARKS)} without one")
    parser.add_argument(
        "--peer", action="append", default=[], type=_peer, metavar="NAME=FOLDER", help="a checkout of a peer"
    )
    parser.add_argument("--repeats", type=_count, default=7, metavar="N", help="of each side; 7 where none is given")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single value to it")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"got {', '.join(unknown)}, valid: {', '.join(BENCHMARKS)}")
    if given.json:
        try:
            given.json.open("ab").close()
        except OSError as error:
            parser.error(f"--json: {given.json}: cannot be written: {error.strerror}")
    folders = dict(given.peer)
    report = Report()
    for name in given.names or BENCHMARKS:
        _run(name, given.repeats, folders, report)
        if given.json:  # what was measured stays, whatever comes after it
            given.json.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    print("; ".join(f"{fact} {value}" for fact, value in machine().items()))
    return 0 if all(result.reached for found in report.results.values() for result in found) else 1


def _peer(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if name not in PEERS or not folder or not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(
            f"got {text}, valid: one of {', '.join(PEERS)}, = and the folder of its checkout"
        )
    return name, Path(folder).resolve()


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, valid: an integer of at least 1")
    return int(text)


def _run(name: str, repeats: int, peers: dict[str, Path], report: Report) -> None:
    print(f"{name}: {BENCHMARKS[name]}", flush=True)
    found = report.results.setdefault(name, [])
    with tempfile.TemporaryDirectory() as folder:
        try:
            for result in importlib.import_module(f"bench.{name}").run(Given(repeats, peers, Path(folder))):
                found.append(result)
                print(f"  {result.line()}", flush=True)
        except Missing as missing:
            report.skipped[name] = str(missing)
            print(f"  skipped{' the rest' if found else ''}: {missing}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
