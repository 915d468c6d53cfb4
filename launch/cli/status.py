"""`tmrc status`: where runs stand."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from launch.complete import runs_and_sweeps

if TYPE_CHECKING:
    from launch.status import Asker, RunStatus
    from tmrc.config.rundir import RunDir

ASK_SLURM = 10.0  # seconds between two questions to Slurm while watching: its controller has others to answer


@click.command()
@click.argument("target", required=False, metavar="[RUN|DIR]", shell_complete=runs_and_sweeps)
@click.option("-w", "--watch", "watched", is_flag=True, help="Show it anew until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds, of --watch.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of objects, or one object for a run.")
def status(target: str | None, watched: bool, interval: float, as_json: bool) -> None:
    """Show all runs in a directory, or one run in full.

    DIR is a directory of runs; without it, `artifacts`, or the working directory. RUN is a run's directory, its id, or
    the beginning of that. A state with a question mark is what the files say where nobody could be asked.
    """
    from launch.screen import coloured, never_fails_to_print, watch, width_of_stdout
    from launch.status import Asker

    never_fails_to_print()
    view = _View(*_wanted(target), as_json, Asker(ASK_SLURM if watched else 0.0, not watched or sys.stdout.isatty()))
    if watched:
        watch(view.look, view.lines, interval, in_place=not as_json)
        return
    view.look()
    click.echo("\n".join(view.lines(width_of_stdout(), coloured())), color=True)


def _wanted(name: str | None) -> tuple[RunDir | None, Path]:
    """The run, or else the directory of runs or of a sweep."""
    from launch.find import default_folder, find_target

    if name is None:
        return None, default_folder()
    target = find_target(name)
    return target.run, target.path


@dataclass
class _View:
    """What is to be shown of the run, or of all runs in `folder`."""

    run: RunDir | None
    folder: Path
    as_json: bool
    asker: Asker
    found: list[RunStatus] = field(default_factory=list)
    problem: str = ""

    def look(self) -> tuple[object, object]:
        """Look at everything again; returns the states, and everything but what changes with time alone."""
        from launch.find import Target
        from launch.status import statuses

        runs = Target(self.folder).runs() if self.run is None else [self.run]
        self.found, self.problem = statuses(runs, self.asker)
        states = [(one.run_id, one.state, one.sure, one.attempts, one.kind) for one in self.found]
        return (self.problem, states), [replace(one, time_left=None) for one in self.found]

    def lines(self, width: int | None, colour: bool, height: int | None = None) -> list[str]:
        """How it stood at the last look, as lines for a terminal of `width` columns, at most `height` for a table."""
        if self.as_json:
            if self.problem:
                print(f"queue unknown: {self.problem}", file=sys.stderr)
            return [json.dumps(self._objects())]
        unknown = [f"queue unknown: {self.problem}"] if self.problem else []
        if self.run is not None:
            from launch.detail import page

            return [*page(self.found[0], self.run, width, colour), *unknown]
        if height is not None and self.found:
            from launch.live import live

            return [*live(self.found, width, colour, height - len(unknown)), *unknown]
        from launch.table import table

        return [*(table(self.found, width, colour) if self.found else [f"no runs in {self.folder}"]), *unknown]

    def _objects(self) -> object:
        if self.run is None:
            return [asdict(one) for one in self.found]
        from launch.detail import as_object

        return as_object(self.found[0], self.run)
