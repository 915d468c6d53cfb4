"""A new job for a run whose own job cannot go back to the queue, or must not go back to the same nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.gpus import slurm_resources
from launch.script import batch_script
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config


def resubmit(run: RunDir, config: Config, folder: Path, job_id: str, avoid: Sequence[str]) -> str:
    """Submit the run as a job of its own that keeps off the nodes `avoid`; returns the new job's id.

    `folder` holds Submitit's files of the present job. Raises UserError with sbatch's words.
    """
    from submitit.core.utils import DelayedSubmission

    from launch.slurm import submit

    exclude = ",".join(filter(None, [config.launch.exclude, *avoid])) or None
    script = batch_script(run, dataclasses.replace(config.launch, exclude=exclude), slurm_resources(config))
    try:
        delayed: Any = DelayedSubmission.load(folder / f"{job_id}_submitted.pkl")  # in a directory of our user's alone
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None
    return submit(run, delayed.function, script)
