"""Seconds and bytes of `tmrc report -o page.html` on a large sweep: `python -m bench.report`.

Makes the runs in a temporary directory (some minutes for the largest), then runs the command as a process, again and
again, and prints the medians.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.report.made import make_sweep

SECONDS, BYTES = 10.0, 10_000_000  # the aims, for 200 runs of 5,000 rows


def main() -> int:
    """Print seconds and megabytes; returns 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep = make_sweep(Path(folder), given.runs, given.rows)
        read = sum(file.stat().st_size for file in sweep.glob("*/metrics.jsonl"))
        page = Path(folder) / "report.html"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        times = [_seconds(sweep, page) for _ in range(given.repeats)]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        size = page.stat().st_size
    middle = statistics.median(times)
    print(f"{given.runs:,} runs of {given.rows:,} rows, {read / 1e6:,.0f} MB of metrics, {os.cpu_count()} cores")
    print(f"{middle:.2f} s (median of {len(times)}, {min(times):.2f} to {max(times):.2f}); aim: under {SECONDS:.0f} s")
    computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{computed / len(times):.2f} s of processor time each, which other work on the machine does not change")
    print(f"{size / 1e6:.2f} MB of page; aim: under {BYTES / 1e6:.0f} MB")
    return 0 if middle < SECONDS and size < BYTES else 1


def _seconds(sweep: Path, page: Path) -> float:
    command = [sys.executable, "-m", "launch.cli.main", "report", str(sweep), "-o", str(page)]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
