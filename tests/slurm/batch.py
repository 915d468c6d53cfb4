"""Many cases at the same time, each compared with the uninterrupted run of its kind."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.slurm.cases import COMPILED, Case, Reference, Setting, reference_run, run_case
from tests.slurm.pool import Pool

WORKERS = 5  # cases at a time: half of a case is waiting


@dataclass(frozen=True)
class Job:
    """A case in a setting."""

    case: Case
    setting: Setting

    @property
    def compiled(self) -> bool:
        return self.case.training == COMPILED


class Batch:
    """Starts all jobs, and has their results when they are asked for."""

    def __init__(self, pool: Pool, data: Path, workers: int = WORKERS) -> None:
        self._pool, self._data = pool, data
        self._references: dict[tuple[int, bool], Future[Reference]] = {}
        self._lock = threading.Lock()
        self._workers = ThreadPoolExecutor(workers)

    def start(self, jobs: Iterable[Job]) -> dict[Job, Future[str]]:
        """Job -> what `run_case` says or raises, to come."""
        return {job: self._workers.submit(self._run, job) for job in jobs}

    def reference(self, nodes: int, compiled: bool, proctrack: str) -> Reference:
        """The uninterrupted run's result; the first who asks runs it."""
        with self._lock:
            mine = (nodes, compiled) not in self._references
            future = self._references.setdefault((nodes, compiled), Future())
        if mine:
            try:
                future.set_result(reference_run(nodes, compiled, self._pool, self._data, proctrack))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def close(self) -> None:
        """Let what runs come to its end, and start nothing more."""
        self._workers.shutdown(cancel_futures=True)

    def _run(self, job: Job) -> str:
        setting = job.setting
        return run_case(
            job.case,
            setting,
            self._pool,
            self._data,
            lambda: self.reference(setting.nodes, job.compiled, setting.proctrack),
        )
