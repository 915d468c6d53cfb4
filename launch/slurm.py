"""Handing runs to Slurm through Submitit."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.core.core import Job
from submitit.core.utils import FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from launch.commands import SilentError, ask
from launch.forecast import sbatch_words
from launch.job import TrainJob
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir

PATIENCE = 120.0  # seconds for sbatch, which itself gives up when the controller has been silent for some ten


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

    def _submit_command(self, command: str) -> Job[Any]:
        """As Submitit does it, but sbatch is waited for with a time limit and never outlives us."""
        file = self.folder / f".submission_file_{uuid.uuid4().hex}.sh"
        file.write_text(self._script, "utf8")
        said = _sbatch(file, self._script)
        job: Job[Any] = self.job_class(self.folder, self._get_job_id_from_submission_command(said), [0])
        job.paths.move_temporary_file(file, "submission_file", keep_as_symlink=True)
        return job

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
    return _hand_over(ScriptExecutor(run.submitit, script), [job])[0]


def submit_array(folder: Path, jobs: Sequence[TrainJob], script: str) -> list[str]:
    """Submit an array whose k-th task is `jobs[k]`, in one call of sbatch; `folder` takes Submitit's files.

    Returns the ids `<array>_<task>`. Raises UserError with sbatch's own words.
    """
    return _hand_over(ScriptExecutor(folder, script, array=True), jobs)


def _hand_over(executor: ScriptExecutor, jobs: Sequence[TrainJob]) -> list[str]:
    try:
        with executor.batch():
            submitted = [executor.submit(job) for job in jobs]
        return [str(job.job_id) for job in submitted]
    except FailedSubmissionError as error:
        raise UserError(f"sbatch: {sbatch_words(str(error))}") from None
    except OSError as error:
        raise UserError(f"{error.filename or executor.folder}: cannot be written: {error.strerror or error}") from None


def _sbatch(script_file: Path, script: str) -> str:
    """What sbatch prints when it takes the job. Raises UserError with its words when it does not."""
    try:  # nothing is added to the environment: the job would have it, too
        done = ask("sbatch", str(script_file), patience=PATIENCE, script=script, environ={}, aloud=True)
    except SilentError as error:
        hint = "" if error.missing else "; look with squeue whether Slurm has taken a job after all"
        raise UserError(f"{error}{hint} (--local runs on this machine)") from None
    if done.returncode:
        words = sbatch_words(done.stderr)
        raise UserError(f"sbatch: {words} (--local runs on this machine)")
    return done.stdout
