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
    "checkpoint": "how long a save holds training up",
    "restart": "from a job's start to its first step, new and requeued",
    "commands": "whole processes of tmrc-submit and tmrc status",
    "loader": "the feed of training, document ids, the order of samples",
    "sweep": "submitting a hundred runs",
    "report": "tmrc report on a sweep of 200 runs",
    "tracking": "training with Weights & Biases, well or broken",
    "cpu_training": "training steps on a CPU against nanoGPT's (minutes)",
    "gpu": "throughput, utilisation, memory and kernels of training on one GPU (minutes)",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks; returns 1 when an aim is missed, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all of {', '.join(BENCHMARKS)} without one")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=FOLDER", help="a checkout of a peer")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in BENCHMARKS]:
        parser.error(f"got {', '.join(unknown)}, valid: {', '.join(BENCHMARKS)}")
    peers = dict(entry.partition("=")[::2] for entry in given.peer)
    folders = {name: Path(folder).resolve() for name, folder in peers.items()}
    report = Report()
    for name in given.names or BENCHMARKS:
        _run(name, given.repeats, folders, report)
    print("; ".join(f"{fact} {value}" for fact, value in machine().items()))
    if given.json:
        given.json.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    return 0 if all(result.reached for found in report.results.values() for result in found) else 1


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
