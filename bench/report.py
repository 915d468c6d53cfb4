"""Seconds and bytes of `tmrc report -o page.html` on a large sweep. Making the runs takes some minutes."""

from __future__ import annotations

from collections.abc import Iterator

from bench.harness import Aim, Figure, Given, Result, repeated
from bench.processes import environment, process, with_processor
from tests.report.made import make_sweep

RUNS, ROWS = 200, 5_000
SECONDS, MEGABYTES = 10.0, 10.0


def run(given: Given) -> Iterator[Result]:
    """The whole command, again and again, and the page that it writes."""
    sweep = make_sweep(given.scratch, RUNS, ROWS)
    read = sum(file.stat().st_size for file in sweep.glob("*/metrics.jsonl")) / 1e6
    page = given.scratch / "report.html"
    command = ["-m", "launch.cli.main", "report", str(sweep), "-o", str(page)]
    computed: list[float] = []
    seconds = repeated(with_processor(process(command, environment(given.scratch)), computed), given.repeats)
    note = f"{read:,.0f} MB of metrics read"
    yield Figure(f"report of {RUNS} runs of {ROWS:,} rows", seconds, "s", Aim("at most", SECONDS), note)
    yield Figure("processor time of it", tuple(computed[1:]), "s")
    yield Figure("its page", (page.stat().st_size / 1e6,), "MB", Aim("at most", MEGABYTES))
