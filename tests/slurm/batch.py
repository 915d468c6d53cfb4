"""Many cases at the same time, each compared with the uninterrupted run of its kind."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.slurm.cases import COMPILED, Case, Reference, Setting, reference_run, run_case
from tests.slurm.pool import Pool

WORKERS = 5  # cases at a time: half of a case is waiting


@dataclass(frozen=True, eq=False)
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
        self._workers = ThreadPoolExecutor(workers)

    def start(self, jobs: Iterable[Job]) -> dict[Job, Future[str]]:
        """Job -> what `run_case` says or raises, to come."""
        jobs = list(jobs)
        for job in jobs:  # the uninterrupted runs first: cases keep their nodes until they have been compared
            kind = (job.setting.nodes, job.compiled)
            if kind not in self._references:
                self._references[kind] = self._workers.submit(
                    reference_run, *kind, self._pool, self._data, job.setting.proctrack
                )
        return {job: self._workers.submit(self._run, job) for job in jobs}

    def reference(self, nodes: int) -> Reference:
        """The uninterrupted run of so many nodes, of which some job has been started."""
        return self._references[nodes, False].result()

    def close(self) -> None:
        """Let what runs come to its end, and start nothing more."""
        self._workers.shutdown(cancel_futures=True)

    def _run(self, job: Job) -> str:
        reference = self._references[job.setting.nodes, job.compiled]
        return run_case(job.case, job.setting, self._pool, self._data, reference.result)
