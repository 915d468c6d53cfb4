"""Handing a run to Slurm through Submitit."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from launch.job import TrainJob
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir


class ScriptExecutor(SlurmExecutor):
    """Submitit's executor with a given script in place of the one it would write."""

    def __init__(self, folder: Path, script: str) -> None:
        super().__init__(folder)
        self._script = script

    @classmethod
    def affinity(cls) -> int:
        """Usable wherever sbatch is, which preflight has seen to."""
        return 2

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self._script


def submit(run: RunDir, job: TrainJob, script: str) -> str:
    """Submit `job` with the batch script `script`; returns Slurm's job id. Raises UserError with sbatch's own words."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # Submitit prints sbatch's words as well as raising them
            return str(ScriptExecutor(run.submitit, script).submit(job).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        words = str(error).replace("sbatch: error: ", "") or "failed without a word"
        raise UserError(f"sbatch: {words} (--local runs on this machine)") from None
