"""What a run in the foreground shows: one moving line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

PLAIN_EVERY = 5.0  # seconds between plain lines


@dataclass
class State:
    """Where a run stands, from the rows of metrics.jsonl and events.jsonl seen so far."""

    total: int | None = None
    row: dict[str, Any] = field(default_factory=dict)
    val_loss: float | None = None
    validated: int = 0  # the step of that validation
    saved: int | None = None
    resumed: int | None = None  # the step that this attempt continues from
    passed_over: tuple[str, ...] = ()  # lines about newer checkpoints, which it could not continue from
    started: bool = False
    first: tuple[int, float] | None = None  # step and time from which the rate is measured

    @property
    def step(self) -> int:
        """The last step logged."""
        return int(self.row.get("step", 0))

    def event(self, row: dict[str, Any]) -> None:
        """Take in a row of events.jsonl."""
        kind = row.get("event")
        if kind in ("started", "resumed"):
            self.started = True
            self.total = row.get("total_steps", self.total)
            if kind == "resumed":  # what was read until now are rows of earlier attempts
                self.resumed, self.row, self.first = int(row.get("step", 0)), {}, None
                lines = row.get("passed_over")
                self.passed_over = tuple(map(str, lines)) if isinstance(lines, list) else ()
        elif kind == "checkpoint":
            self.saved = row.get("step", self.saved)

    def metrics(self, row: dict[str, Any], now: float) -> None:
        """Take in a row of metrics.jsonl; `now` in seconds."""
        if "val_loss" in row:
            self.val_loss, self.validated = row["val_loss"], int(row.get("step", 0))
        if "loss" in row and row["step"] > (self.resumed or 0):
            self.row = row
            if self.first is None or self.step < self.first[0] or now == self.first[1]:
                self.first = (self.step, now)  # of the rows that are there at the first look, the last one

    def eta(self, now: float) -> float | None:
        """Seconds left at the rate seen since the first row; None while that says nothing."""
        if self.total is None or self.first is None or self.step <= self.first[0]:
            return None
        return (self.total - self.step) * (now - self.first[1]) / (self.step - self.first[0])

    def facts(self, now: float) -> list[str]:
        """The parts of a progress line: step, losses, learning rate, throughput, time left."""
        if not self.row:
            return ["training, first row to come" if self.started else "starting"]
        shown = [f"step {self.step:,}" + (f"/{self.total:,}" if self.total else "")]
        shown.append(f"loss {self.row['loss']:.4f}")
        if self.val_loss is not None:
            shown.append(f"val {self.val_loss:.4f}")
        if (rate := self.row.get("lr")) is not None:
            shown.append(f"lr {rate:.3g}")
        if (tokens := self.row.get("tokens_per_s")) is not None:
            shown.append(f"{amount(tokens)} tokens/s")
        if (left := self.eta(now)) is not None:
            shown.append(f"{duration(left)} left")
        return shown


class Display(Protocol):
    """Something that shows a run's state."""

    def update(self, state: State) -> None:
        """The state may have changed."""

    def say(self, line: str) -> None:
        """Show a line that stays."""


class PlainDisplay:
    """Lines for a log or a pipe, at most one every few seconds and none that says nothing new."""

    def __init__(self) -> None:
        self._shown = ""
        self._when = 0.0

    def update(self, state: State) -> None:
        """Print the state when it is new and the last line is old enough."""
        now = time.monotonic()
        line = "  ".join(state.facts(now))
        new_step = line.split("  ")[0] != self._shown.split("  ")[0]
        if new_step and now - self._when >= PLAIN_EVERY:
            self._shown = line
            self._when = now if state.row else 0.0  # the first row is shown as soon as it is there
            self.say(line)

    def say(self, line: str) -> None:
        """Print `line`."""
        print(line, file=sys.stderr, flush=True)


class LiveDisplay:
    """One line at the bottom of the terminal: a bar and the state beside it."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task

    def update(self, state: State) -> None:
        """Move the bar."""
        facts = "  ".join(state.facts(time.monotonic()))
        self._progress.update(self._task, completed=state.step, total=state.total, facts=facts)

    def say(self, line: str) -> None:
        """Print `line` above the bar."""
        self._progress.console.print(line, markup=False, highlight=False)


@contextmanager
def display() -> Iterator[Display]:
    """The display that suits stderr."""
    if not sys.stderr.isatty():
        yield PlainDisplay()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = SpinnerColumn(), BarColumn(bar_width=16), TextColumn("{task.fields[facts]}", markup=False)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield LiveDisplay(progress, progress.add_task("", total=None, facts="starting"))


@contextmanager
def quiet_when_nobody_reads() -> Iterator[None]:
    """The terminal or pipe may be gone; the run still has to be seen to its end."""
    try:
        yield
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())


def amount(number: float) -> str:
    """`12,345` as `12.3k`."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """`4,000` as `1h07m`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    hours = whole // 3600
    return f"{hours // 24}d{hours % 24:02}h" if hours >= 24 else f"{hours}h{whole // 60 % 60:02}m"
