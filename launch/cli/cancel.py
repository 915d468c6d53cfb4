"""`tmrc cancel`: stop runs."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--now", "at_once", is_flag=True, help="Without saving first: back to the last checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print one object, or a list for several runs.")
def cancel(runs: tuple[str, ...], at_once: bool, as_json: bool) -> int:
    """Stop each RUN: a directory, a run id, or the beginning of one.

    A run that trains is asked to save and stop, and does not return to the queue; one that waits is taken off the
    queue. `tmrc-submit --resume RUN` goes on with it. Returns before it has stopped; `tmrc status RUN` shows when it
    has. One that has ended is left alone, which is no error.
    """
    from launch.cancel import cancel_run
    from launch.find import find_run
    from launch.plaintext import one_line
    from launch.screen import never_fails_to_print
    from tmrc.config.errors import UserError

    never_fails_to_print()
    found = [find_run(name) for name in runs]  # all of them before any is touched
    done, failed = [], False
    for run in {run.path: run for run in found}.values():
        try:
            done.append(cancel_run(run, at_once))
        except UserError as error:
            if len(found) == 1:
                raise
            failed = True
            click.echo(f"error: {error}", err=True)
            continue
        if not as_json:
            click.echo(one_line(f"{done[-1].run_id}: {done[-1].message}"))
    if as_json:
        objects = [asdict(one) for one in done]
        click.echo(json.dumps(objects[0] if len(found) == 1 else objects))
    return 2 if failed else 0
