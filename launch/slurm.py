"""Handing runs to Slurm through Submitit."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from launch.environment import cleaned
from launch.job import TrainJob
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir


class ScriptExecutor(SlurmExecutor):
    """Submitit's executor with a given script in place of the one it would write, for one job or for an array."""

    def __init__(self, folder: Path, script: str, array: bool = False) -> None:
        super().__init__(folder)
        self._script = script
        self._array = array

    @classmethod
    def affinity(cls) -> int:
        """Usable wherever sbatch is, which preflight has seen to."""
        return 2

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self._script

    def _throttle(self) -> None:
        """One call of sbatch is no flood; Submitit would wait 0.2 seconds before it."""

    def _internal_process_submissions(self, delayed_submissions: list[Any]) -> list[Any]:
        """As Submitit does it; for an array, it would have a fresh executor render a script of its own."""
        if not self._array:
            return list(super()._internal_process_submissions(delayed_submissions))
        self.folder.mkdir(parents=True, exist_ok=True)
        pickles = [self.folder / f"array_{number}.pkl" for number in range(len(delayed_submissions))]
        for delayed, pickle in zip(delayed_submissions, pickles, strict=True):
            delayed.dump(pickle)
        array = self._submit_command("").job_id
        jobs = [self.job_class(self.folder, f"{array}_{number}", [0]) for number in range(len(pickles))]
        for job, pickle in zip(jobs, pickles, strict=True):
            job.paths.move_temporary_file(pickle, "submitted_pickle")
        return jobs


def submit(run: RunDir, job: TrainJob, script: str) -> str:
    """Submit `job` with the batch script `script`; returns Slurm's job id. Raises UserError with sbatch's own words."""
    return _hand_over(ScriptExecutor(run.submitit, script), [job], script)[0]


def submit_array(folder: Path, jobs: Sequence[TrainJob], script: str) -> list[str]:
    """Submit an array whose k-th task is `jobs[k]`, in one call of sbatch; `folder` takes Submitit's files.

    Returns the ids `<array>_<task>`. Raises UserError with sbatch's own words.
    """
    return _hand_over(ScriptExecutor(folder, script, array=True), jobs, script)


def _hand_over(executor: ScriptExecutor, jobs: Sequence[TrainJob], script: str) -> list[str]:
    try:
        # Submitit prints sbatch's words as well as raising them
        with contextlib.redirect_stderr(io.StringIO()), cleaned(script):
            with executor.batch():
                submitted = [executor.submit(job) for job in jobs]
            return [str(job.job_id) for job in submitted]
    except (FailedJobError, FailedSubmissionError) as error:
        words = str(error).replace("sbatch: error: ", "") or "failed without a word"
        raise UserError(f"sbatch: {words} (--local runs on this machine)") from None
