"""`tmrc cancel`: stop runs."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from launch.complete import runs_and_sweeps


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=runs_and_sweeps)
@click.option("--now", "at_once", is_flag=True, help="Without saving first: back to the last checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print one object, or a list for several runs.")
def cancel(runs: tuple[str, ...], at_once: bool, as_json: bool) -> int:
    """Stop each RUN: a directory, a run id, or the beginning of one; or a sweep, which means all its runs.

    A run that trains is asked to save and stop, and does not return to the queue; one that waits is taken off the
    queue. `tmrc-submit --resume RUN` goes on with it. Returns before it has stopped; `tmrc status RUN` shows when it
    has. One that has ended is left alone, which is no error.
    """
    from launch.cancel import cancel_runs
    from launch.find import find_target
    from launch.plaintext import one_line
    from launch.screen import never_fails_to_print
    from tmrc.config.errors import UserError

    never_fails_to_print()
    targets = [find_target(name) for name in runs]  # all of them before any is touched
    for name, target in zip(runs, targets, strict=True):
        if target.run is None and not target.is_sweep:
            raise UserError(f"{name}: is a directory with runs in it; name the runs or the sweep")
    found = {run.path: run for target in targets for run in target.runs()}
    alone = len(targets) == 1 and targets[0].run is not None
    objects, failed = [], False
    for done in cancel_runs(list(found.values()), at_once):
        if isinstance(done, UserError):
            if alone:
                raise done
            failed = True
            click.echo(f"error: {done}", err=True)
        elif as_json:
            objects.append(asdict(done))
        else:
            click.echo(one_line(f"{done.run_id}: {done.message}"))
    if as_json:
        click.echo(json.dumps(objects[0] if alone else objects))
    return 2 if failed else 0
