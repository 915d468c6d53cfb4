"""`tmrc drill`: do interrupted runs equal an uninterrupted one? Tried on one's own configuration."""

from __future__ import annotations

import sys
from typing import Any

import click

from launch.cli.options import job_options
from launch.complete import config_and_overrides, files, runs


@click.command(context_settings={"max_content_width": 100})
@click.argument("arguments", metavar="CONFIG [KEY=VALUE]...", nargs=-1, shell_complete=config_and_overrides)
@click.option("--faults", default="all", show_default=True, metavar="A,B,...", help="Which faults; see above.")
@click.option(
    "--trials",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    metavar="N",
    help="Runs that are disturbed.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Draws faults and moments; the same seed, the same."
)
@click.option("--only", type=click.IntRange(1), metavar="K", help="Only trial K of this seed, again.")
@click.option(
    "--reference", metavar="RUN", shell_complete=runs, help="A finished run to compare with, in place of CONFIG."
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    metavar="N",
    help="Training processes a node; the same as launch.processes_per_node=N.",
)
@click.option(
    "--parallel", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="Trials at a time."
)
@click.option("--keep", is_flag=True, help="Keep all runs; else only those stay that differ.")
@click.option(
    "--json", "json_file", metavar="FILE", shell_complete=files, help="Write all that was found; - for stdout."
)
@click.option("--markdown", metavar="FILE", shell_complete=files, help="Write the table of all faults; - for stdout.")
@click.option("--slurm", is_flag=True, help="Run everything as jobs.")
@job_options
@click.pass_context
def drill(
    context: click.Context,
    /,
    arguments: tuple[str, ...],
    faults: str,
    trials: int,
    seed: int,
    only: int | None,
    reference: str | None,
    processes: int | None,
    parallel: int,
    keep: bool,
    json_file: str | None,
    markdown: str | None,
    slurm: bool,
    **job: Any,
) -> int:
    """Try whether an interrupted run of CONFIG ends as one that nothing has happened to, bit for bit.

    CONFIG is run once without any fault. Then it is run again and again, each time hit by faults at random moments,
    resumed until it has finished, and compared: every number in metrics.jsonl, the order of the samples, weights and
    optimizer state. Everything lies in a directory of its own below training.artifacts_path, and Weights & Biases is
    told nothing.

    Faults on this machine: kill, node, term, usr2, int, hup, stop, corrupt, twin, disk, resize. On Slurm: kill, term,
    usr2, requeue, cancel, corrupt. What they do is on the page docs/drill.md.

    Exit codes: 0 all equal, 1 a difference, a run that could not finish, or no fault came while a trial ran, 2 an
    error in what was asked for, 130 interrupted.
    """
    from launch.drill.command import run_command
    from launch.drill.wish import Wish

    given = list(arguments)
    source = next((text for text in given if "=" not in text), None)
    if source is not None:
        given.remove(source)
    wrong = next((text for text in given if "=" not in text), None)
    if wrong is not None:
        raise click.UsageError(f"{wrong!r}: give one CONFIG, and KEY=VALUE")
    given_to_jobs = {name: value for name, value in job.items() if value is not None}
    options = [word for name, value in given_to_jobs.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    if options and not slurm:
        raise click.UsageError(f"{options[0]} is for jobs: give --slurm as well")
    if processes is not None:
        given.append(f"launch.processes_per_node={processes}")
    wish = Wish(
        source, tuple(given), tuple(name.strip() for name in faults.split(",")), trials, seed, slurm,
        reference, only, parallel, keep, tuple(options), tuple(sys.argv), **(context.obj or {}),
    )  # fmt: skip
    return run_command(wish, json_file, markdown)
