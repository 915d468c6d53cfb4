"""Reading many runs: in as many processes as there are cores where the files are large, with progress on stderr."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass

from launch.report.life import Life, Wanted, read_life
from launch.status import Asker, RunStatus, statuses
from tmrc.config.errors import UserError
from tmrc.config.goodput import Place
from tmrc.config.rundir import RunDir

# Points of all runs together in one chart. Eight bytes a point and axis, and base64: four MB of page at most.
POINTS = {
    "loss": 50_000, "smooth": 20_000, "val_loss": 20_000, "lr": 12_000, "grad_norm": 30_000, "smooth_grad_norm": 15_000,
    "tokens_per_s": 15_000, "smooth_tokens_per_s": 15_000,
}  # fmt: skip
MOST = 3_000  # points of one run in one chart: more than a screen has columns
SMALL = 12_000_000  # bytes of metrics that one process reads in less time than others take to start
PATIENCE = 2.0  # seconds before progress is shown
BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Collection:
    """Runs with their states. `problem` is why Slurm could not be asked."""

    lives: tuple[Life, ...]
    statuses: tuple[RunStatus, ...]
    now: float
    problem: str = ""


def collect(runs: Sequence[RunDir]) -> Collection:
    """Read all `runs`. Raises UserError only when a reading process is killed."""
    now = time.time()
    found, problem = statuses(runs, Asker())
    points = {key: min(MOST, budget // max(1, len(runs))) for key, budget in POINTS.items()}
    wanted = [Wanted(run, _place(one), now, points) for run, one in zip(runs, found, strict=True)]
    return Collection(tuple(_read_all(wanted)), tuple(found), now, problem)


def _place(one: RunStatus) -> Place | None:
    if not one.sure:
        return None
    return "queued" if one.state == "pending" else "running" if one.active else "over"


def _read_all(wanted: Sequence[Wanted]) -> list[Life]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, len(wanted), 8)
    with _progress(len(wanted)) as done:
        if workers < 2 or sum(_size(one.run) for one in wanted) < SMALL:
            return [done.after(read_life(one)) for one in wanted]
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_leave_ctrl_c)
        try:
            return [done.after(life) for life in pool.map(read_life, wanted, chunksize=4)]
        except BrokenProcessPool:
            raise UserError("a process that read runs was killed, perhaps for want of memory") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_ctrl_c() -> None:
    """Ctrl-C is for the process that waits for us; it ends us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _size(run: RunDir) -> int:
    try:
        return run.metrics.stat().st_size
    except (OSError, ValueError):
        return 0


class _Progress:
    """Tells how many runs are read, once that has taken a while."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.next = time.monotonic() + (PATIENCE if sys.stderr.isatty() else BETWEEN_LINES)
        self.bar: _Bar | None = None

    def after(self, life: Life) -> Life:
        """Count `life`, and give it back."""
        self.done += 1
        if self.bar is not None:
            self.bar.show(self.done)
        elif time.monotonic() >= self.next:
            self._tell()
        return life

    def _tell(self) -> None:
        if sys.stderr.isatty():
            self.bar = _Bar(self.total)
            self.bar.show(self.done)
            return
        self.next = time.monotonic() + BETWEEN_LINES
        print(f"read {self.done:,} of {self.total:,} runs", file=sys.stderr, flush=True)


class _Bar:
    """A bar on stderr."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("reading runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.progress.start()
        self.task = self.progress.add_task("", total=total)

    def show(self, done: int) -> None:
        """Move it."""
        self.progress.update(self.task, completed=done)

    def stop(self) -> None:
        """Take it away."""
        self.progress.stop()


@contextmanager
def _progress(total: int) -> Iterator[_Progress]:
    progress = _Progress(total)
    try:
        yield progress
    finally:
        if progress.bar is not None:
            progress.bar.stop()
