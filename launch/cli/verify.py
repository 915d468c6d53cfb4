"""`tmrc verify`: whether runs are what they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from launch.complete import runs, runs_and_sweeps

if TYPE_CHECKING:
    from launch.compare.against import Compared
    from tmrc.config.rundir import RunDir
    from tmrc.verify.facts import Check
    from tmrc.verify.run import Verified

_COLOURS = {"ok": "green", "note": "yellow", "fault": "red", "-": "bright_black"}
_VERDICT = 5  # columns
_NARROWEST = 20  # columns that a text keeps


@click.command()
@click.argument("targets", metavar="RUN...", nargs=-1, required=True, shell_complete=runs_and_sweeps)
@click.option("--no-data", is_flag=True, help="Do not read the data again to compare its tokens.")
@click.option("--against", metavar="RUN", shell_complete=runs, help="Say whether the one run is equal to this one.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects, one for each run.")
def verify(targets: tuple[str, ...], no_data: bool, against: str | None, as_json: bool) -> int:
    """Check runs: every byte of their checkpoints, the samples that each step used, the data, and the metrics.

    A target is a run, a sweep (all its points) or a directory of runs. A run may go on meanwhile. With --against, one
    run is also compared with another, bit for bit: all rows of metrics, samples, weights and optimizer state. Exit
    code 0: all is well, 1: a fault or a difference was found, 2: it is no run.
    """
    from launch.find import find_runs
    from launch.screen import coloured, never_fails_to_print, width_of_stdout
    from tmrc.config.errors import UserError
    from tmrc.verify.run import verify_run

    never_fails_to_print()
    found = find_runs(targets)
    if not found:
        raise UserError(f"{', '.join(targets)}: no runs there")
    other = _other(found, against) if against is not None else None
    looked = []
    for number, run in enumerate(found):
        verified, told = verify_run(run, read_data=not no_data), _compared(run, other) if other else None
        looked.append((verified, told))
        if not as_json:
            lines = [*([""] if number else []), *lines_of(verified, width_of_stdout(), coloured(), told)]
            click.echo("\n".join(lines), color=True)
    bad = sum(not verified.good for verified, _ in looked)
    if as_json:
        click.echo(json.dumps([_as_object(*one) for one in looked]))
    elif len(looked) > 1:
        click.echo(f"\n{len(looked)} runs: {f'{bad} not sound' if bad else 'all sound'}")
    return 1 if bad or any(told and not told.equal for _, told in looked) else 0


def _other(found: Sequence[RunDir], against: str) -> RunDir:
    """The run that the only one of `found` is to be compared with. Raises UserError."""
    from launch.find import find_run
    from tmrc.config.errors import UserError

    if len(found) != 1:
        raise UserError(f"--against: one run is compared with another, and {len(found)} were named")
    other = find_run(against, option="--against: ")
    if other.path == found[0].path:
        raise UserError(f"--against: {other.path} is the run itself")
    return other


def _compared(run: RunDir, other: RunDir) -> Compared:
    from launch.compare.against import compared

    return compared(run, other)


def _as_object(verified: Verified, told: Compared | None) -> dict[str, Any]:
    return {**verified.as_object(), **({"against": told.as_object()} if told else {})}


def lines_of(verified: Verified, width: int | None, colour: bool, told: Compared | None = None) -> list[str]:
    """A heading, a line or more for each check, the conclusion, and what the comparison with another run has found.

    What is longer than `width` (None: as wide as it gets) goes on in the next line, below its column.
    """
    from launch.plaintext import one_line

    names = max(len(check.name) for check in verified.checks)
    indent = " " * (2 + names + 2 + _VERDICT + 2)
    lines = [one_line(verified.run.run_id)]
    for check in verified.checks:
        first, *more = [part for text in _texts(check) for part in _wrapped(text, width, len(indent))]
        verdict = f"{check.verdict.upper() if check.faults else check.verdict:<{_VERDICT}}"
        if colour:
            verdict = click.style(verdict, fg=_COLOURS[check.verdict], bold=True if check.faults else None)
        lines.append(f"  {check.name:<{names}}  {verdict}  {first}".rstrip())
        lines += [f"{indent}{text}" for text in more]
    for text, good in ((verified.conclusion, verified.good), *([(told.conclusion, told.equal)] if told else [])):
        parts = [f"  {part}" for part in _wrapped(text, width, 2)]
        lines += [click.style(part, fg="green" if good else "red") if colour else part for part in parts]
    return lines


def _texts(check: Check) -> list[str]:
    """What to say: faults where there are any, else the summary; then the notes."""
    from tmrc.verify.facts import some

    return [*(some(check.faults) or (check.summary,)), *some(check.notes)]


def _wrapped(text: str, width: int | None, indent: int) -> list[str]:
    """The text, harmless, in lines that fit beside `indent` columns, broken between words alone; at least one.

    All but the first are indented further, so that it can be seen where another text begins.
    """
    from launch.plaintext import one_line, wrapped

    return wrapped(one_line(text), None if width is None else max(_NARROWEST, width - indent), "  ")
