"""`tmrc-submit`: start a run on Slurm or on this machine."""

from __future__ import annotations

import sys
from typing import Any

import click

from launch.cli.options import job_options
from launch.cli.run import run_command
from launch.complete import config_and_overrides, runs

TRAINER = "tmrc.train"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@job_options
@click.option("-J", "--name", metavar="NAME", help="Name of the job; the run id begins with it. [CONFIG's file name]")
@click.option("--local", is_flag=True, help="Run here, in the foreground. Ctrl-C saves and stops.")
@click.option("--dry-run", is_flag=True, help="Show the plan and the batch script; start and write nothing.")
@click.option(
    "--resume", metavar="RUN", shell_complete=runs, help="Continue a run: its directory, or its id's beginning."
)
@click.option(
    "--allow-change", is_flag=True, help="With --resume: KEY=VALUE may change how the run trains from here on."
)
@click.option("-m", "--multirun", is_flag=True, help="A sweep: a run for each combination of the KEYs' values.")
@click.option("--parallel", type=click.IntRange(1, 10_000), metavar="N", help="Points of a sweep that run at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
@click.argument("arguments", metavar="CONFIG [KEY=VALUE]...", nargs=-1, shell_complete=config_and_overrides)
@click.pass_context
def submit(
    context: click.Context,
    /,
    arguments: tuple[str, ...],
    local: bool,
    dry_run: bool,
    resume: str | None,
    allow_change: bool,
    multirun: bool,
    parallel: int | None,
    as_json: bool,
    **flags: Any,
) -> int:
    """Start the training run that CONFIG describes: on Slurm, or here with --local.

    CONFIG is a YAML file or the name of a packaged configuration; KEY=VALUE overrides one of its keys, such as
    optimizer.lr=3e-4. Options override the `launch:` section of CONFIG, which overrides the template.

    With -m, a VALUE may be several: optimizer.lr=1e-4,3e-4 'model.n_layer=range(4,9,2)', or sweep=NAME for a file of
    them. The points are one Slurm array; the same command again runs those that are missing or failed.

    Exit codes of a run: 0 finished, 2 error in configuration or data, 75 stopped after saving, else a crash.
    """
    given = list(arguments)
    source = next((text for text in given if "=" not in text), given[0] if given and not resume else None)
    if source is not None:
        given.remove(source)
    if source is None and resume is None:
        raise click.UsageError("CONFIG is missing: a YAML file or the name of a packaged configuration")
    if parallel and not multirun:
        raise click.UsageError("--parallel is for sweeps: give -m as well")
    if allow_change and not resume:
        raise click.UsageError("--allow-change is for a run that goes on: give --resume as well")
    if resume and multirun:
        raise click.UsageError("--resume continues one run; a sweep goes on when it is submitted again")
    from launch.submit import Request
    from launch.submit import submit as start

    trainer = context.obj or TRAINER
    command = tuple(sys.argv)
    return start(
        Request(
            source, tuple(given), flags, local, dry_run, resume, as_json, command, trainer, multirun, parallel,
            allow_change,
        )
    )  # fmt: skip


def main(trainer: str = TRAINER) -> None:
    """Entry point of `tmrc-submit`; `trainer` is the module that torchrun starts."""
    from launch.trust import keep_others_out

    keep_others_out()
    run_command(submit, "tmrc-submit", trainer)


if __name__ == "__main__":
    main()
