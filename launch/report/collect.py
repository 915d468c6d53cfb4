"""Reading many runs: in as many processes as there are cores where the files are large, with progress on stderr."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from launch.report.life import Life, Wanted, read_life
from launch.status import Asker, RunStatus, statuses
from tmrc.config.errors import UserError
from tmrc.config.goodput import Place
from tmrc.config.progress import Advance, progress
from tmrc.config.rundir import RunDir

# Points of all runs together in one chart. Eight bytes a point and axis, and base64: four MB of page at most.
POINTS = {
    "loss": 50_000, "smooth": 20_000, "val_loss": 20_000, "lr": 12_000, "grad_norm": 30_000, "smooth_grad_norm": 15_000,
    "tokens_per_s": 15_000, "smooth_tokens_per_s": 15_000,
}  # fmt: skip
MOST = 3_000  # points of one run in one chart: more than a screen has columns
SMALL = 12_000_000  # bytes of metrics that one process reads in less time than others take to start


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
    with progress("reading", len(wanted), "runs") as advance:
        if workers < 2 or sum(_size(one.run) for one in wanted) < SMALL:
            return _counted(map(read_life, wanted), advance)
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_leave_ctrl_c)
        try:
            return _counted(pool.map(read_life, wanted, chunksize=4), advance)
        except BrokenProcessPool:
            raise UserError("a process that read runs was killed, perhaps for want of memory") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _counted(lives: Iterable[Life], advance: Advance) -> list[Life]:
    found = []
    for life in lives:
        found.append(life)
        advance(len(found))
    return found


def _leave_ctrl_c() -> None:
    """Ctrl-C is for the process that waits for us; it ends us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _size(run: RunDir) -> int:
    try:
        return run.metrics.stat().st_size
    except (OSError, ValueError):
        return 0
