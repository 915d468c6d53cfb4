"""`tmrc sync`: what was tracked offline, to Weights & Biases."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

import click

from launch.complete import runs_and_sweeps


@click.command()
@click.argument("targets", metavar="[RUN|SWEEP|DIR]...", nargs=-1, shell_complete=runs_and_sweeps)
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects, one for each run.")
def sync(targets: tuple[str, ...], as_json: bool) -> int:
    """Send runs to Weights & Biases, from a host that reaches it, as far as they are not there yet.

    A target is a run, a sweep (all its points) or a directory of runs; without one, `artifacts` or the working
    directory. Each run is one curve with every step once, however often this is called, whether it was tracked offline
    or online or partly, and while it goes on.
    """
    from launch.find import default_folder, find_runs, runs_in
    from launch.plaintext import one_line
    from launch.screen import never_fails_to_print
    from launch.sync import is_tracked, sync_runs

    never_fails_to_print()
    runs = find_runs(targets) if targets else runs_in(default_folder())
    if any(map(is_tracked, runs)):
        _require_login()
    done, failed = [], False
    for result in sync_runs(runs):
        done.append(result)
        failed = failed or result.state == "failed"
        if result.state == "failed":
            click.echo(one_line(f"error: {result.run_id}: {result.message}"), err=True)
        elif not as_json:
            click.echo(one_line(f"{result.run_id}: {result.message}"))
    if as_json:
        click.echo(json.dumps([asdict(result) for result in done]))
    elif not runs:
        click.echo("no runs")
    return 1 if failed else 0


def _require_login() -> None:
    """Raises UserError where wandb is not there or nobody is logged in."""
    from tmrc.config.errors import UserError

    os.environ.pop("WANDB_MODE", None)  # it is meant for runs: where it is offline, wandb takes no login for one
    try:
        from tmrc.train.wandb_run import logged_in

        known = logged_in()
    except ImportError as error:
        raise UserError(f"wandb cannot be imported: {error}") from None
    if not known:
        raise UserError("no login to Weights & Biases: call `wandb login`, or set WANDB_API_KEY")
