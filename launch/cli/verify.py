"""`tmrc verify`: whether runs are what they say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from launch.complete import runs_and_sweeps

if TYPE_CHECKING:
    from tmrc.verify.facts import Check
    from tmrc.verify.run import Verified

_COLOURS = {"ok": "green", "note": "yellow", "fault": "red", "-": "bright_black"}


@click.command()
@click.argument("targets", metavar="RUN...", nargs=-1, required=True, shell_complete=runs_and_sweeps)
@click.option("--no-data", is_flag=True, help="Do not read the data again to compare its tokens.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects, one for each run.")
def verify(targets: tuple[str, ...], no_data: bool, as_json: bool) -> int:
    """Check runs: every byte of their checkpoints, the samples that each step used, the data, and the metrics.

    A target is a run, a sweep (all its points) or a directory of runs. A run may go on meanwhile. Exit code 0: all is
    well, 1: a fault was found, 2: it is no run.
    """
    from launch.find import find_runs
    from launch.screen import coloured, never_fails_to_print
    from tmrc.config.errors import UserError
    from tmrc.verify.run import verify_run

    never_fails_to_print()
    runs = find_runs(targets)
    if not runs:
        raise UserError(f"{', '.join(targets)}: no runs there")
    done = []
    for number, run in enumerate(runs):
        verified = verify_run(run, read_data=not no_data)
        done.append(verified)
        if not as_json:
            lines = [*([""] if number else []), *_lines(verified, coloured())]
            click.echo("\n".join(lines), color=True)
    bad = [one for one in done if not one.good]
    if as_json:
        click.echo(json.dumps([one.as_object() for one in done]))
    elif len(done) > 1:
        click.echo(f"\n{len(done)} runs: {f'{len(bad)} not sound' if bad else 'all sound'}")
    return 1 if bad else 0


def _lines(verified: Verified, colour: bool) -> list[str]:
    """A heading, a line or more for each check, and the conclusion."""
    from launch.plaintext import one_line

    width = max(len(check.name) for check in verified.checks)
    lines = [one_line(verified.run.run_id)]
    for check in verified.checks:
        first, *more = _texts(check)
        verdict = f"{check.verdict.upper() if check.faults else check.verdict:<5}"
        if colour:
            verdict = click.style(verdict, fg=_COLOURS[check.verdict], bold=True if check.faults else None)
        lines.append(f"  {check.name:<{width}}  {verdict}  {one_line(first)}".rstrip())
        lines += [f"  {'':<{width}}  {'':<5}  {one_line(text)}" for text in more]
    conclusion = one_line(verified.conclusion)
    return [*lines, "  " + (click.style(conclusion, fg="green" if verified.good else "red") if colour else conclusion)]


def _texts(check: Check) -> list[str]:
    """What to say: faults where there are any, else the summary; then the notes."""
    from tmrc.verify.facts import some

    return [*(some(check.faults) or (check.summary,)), *some(check.notes)]
