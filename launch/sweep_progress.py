"""What a sweep in the foreground shows: a moving line a point on a terminal, a line at each end elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from launch.points import Point
from launch.progress import State
from tmrc.config.rundir import EXIT_FINISHED, EXIT_WANTS_REQUEUE

PLAIN_EVERY = 30.0  # seconds between lines about what runs, where there is no terminal


class SweepDisplay(Protocol):
    """Something that shows where the points stand."""

    def update(self, running: Sequence[tuple[Point, State]]) -> None:
        """These points run now."""

    def ended(self, point: Point, exit_code: int, message: str, state: State) -> None:
        """A point has ended."""

    def say(self, line: str) -> None:
        """Show a line that stays."""


@dataclass
class Count:
    """How many points have ended, of all."""

    total: int
    done: int = 0

    def line(self, point: Point, exit_code: int, message: str, state: State) -> str:
        """`3/12  optimizer.lr=0.0001: finished, val 3.2100`, counting the point."""
        self.done += 1
        words = {EXIT_FINISHED: "finished", EXIT_WANTS_REQUEUE: "stopped"}
        what = words.get(exit_code, f"failed ({message or f'exit code {exit_code}'})")
        loss = state.row.get("loss")
        shown = f", val {state.val_loss:.4f}" if state.val_loss is not None else f", loss {loss:.4f}" if loss else ""
        return f"{self.done}/{self.total}  {point.name}: {what}{shown}"


@dataclass
class PlainSweep:
    """Lines for a log or a pipe."""

    count: Count
    when: float = field(default_factory=time.monotonic)

    def update(self, running: Sequence[tuple[Point, State]]) -> None:
        """Now and then, where each point stands."""
        if time.monotonic() - self.when >= PLAIN_EVERY:
            self.when = time.monotonic()
            for point, state in running:
                self.say(f"{point.name}: {'  '.join(state.facts(self.when))}")

    def ended(self, point: Point, exit_code: int, message: str, state: State) -> None:
        """A line."""
        self.say(self.count.line(point, exit_code, message, state))

    def say(self, line: str) -> None:
        """Print `line`."""
        print(line, file=sys.stderr, flush=True)


class LiveSweep:
    """A bar for the sweep and one for each point that runs."""

    def __init__(self, progress: Any, count: Count) -> None:
        self._progress, self._count = progress, count
        self._whole = progress.add_task("", total=count.total, facts=f"0/{count.total} points")
        self._tasks: dict[str, Any] = {}

    def update(self, running: Sequence[tuple[Point, State]]) -> None:
        """Move the bars."""
        for point, state in running:
            facts = f"{point.name}  {'  '.join(state.facts(time.monotonic()))}"
            task = self._tasks.get(point.name)
            if task is None:
                task = self._tasks[point.name] = self._progress.add_task("", total=None, facts=facts)
            self._progress.update(task, completed=state.step, total=state.total, facts=facts)

    def ended(self, point: Point, exit_code: int, message: str, state: State) -> None:
        """A line in place of the point's bar."""
        self.say(self._count.line(point, exit_code, message, state))
        if (task := self._tasks.pop(point.name, None)) is not None:
            self._progress.remove_task(task)
        facts = f"{self._count.done}/{self._count.total} points"
        self._progress.update(self._whole, completed=self._count.done, facts=facts)

    def say(self, line: str) -> None:
        """Print `line` above the bars."""
        self._progress.console.print(line, markup=False, highlight=False)


@contextmanager
def sweep_display(total: int) -> Iterator[SweepDisplay]:
    """The display that suits stderr."""
    count = Count(total)
    if not sys.stderr.isatty():
        yield PlainSweep(count)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = SpinnerColumn(), BarColumn(bar_width=16), TextColumn("{task.fields[facts]}", markup=False)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield LiveSweep(progress, count)
