"""Bringing a run back: the job into the queue again, or a new job where that cannot or must not be."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.attempts import Ending
from launch.gpus import slurm_resources
from launch.jobs import requeue
from launch.script import batch_script
from tmrc.config.errors import UserError
from tmrc.config.rundir import EXIT_WANTS_REQUEUE, RunDir, append_event
from tmrc.config.schema import Config


@dataclass(frozen=True)
class Job:
    """The job that runs the run now, restarted `restarts` times; `folder` holds Submitit's files of it."""

    run: RunDir
    config: Config
    folder: Path
    job_id: str
    restarts: int


def back_to_the_queue(job: Job, ending: Ending, avoid: Sequence[str], keep_trying: Callable[[], bool]) -> Ending:
    """Requeue the job, or submit another one where that is refused or nodes are to be avoided.

    Returns `ending` with what came of it. While the controller does not answer it is asked again, as long as
    `keep_trying` says so.
    """
    if avoid:  # a running job's list of excluded nodes cannot be changed
        refusal = "nodes are to be avoided"
        append_event(job.run, "excluded", node=",".join(avoid), cause=f"failed there twice, now: {ending.kind}")
    else:
        refusal = requeue(job.job_id, job.restarts, keep_trying)
    if not refusal:
        return ending
    try:
        job_id = resubmit(job, avoid)
    except UserError as error:
        message = f"{ending.message or ending.kind}; it could not be put back into the queue: {refusal}; {error}"
        return dataclasses.replace(ending, action="held", message=message)
    print(f"tmrc: submitted as job {job_id}", flush=True)
    return dataclasses.replace(ending, action="resubmitted")


def move_off(job: Job, avoid: Sequence[str]) -> int:
    """The job was given a node on which the run has failed before: let another job find others. Raises UserError."""
    job_id = resubmit(job, avoid)
    nodes = ",".join(avoid)
    append_event(job.run, "excluded", node=nodes, cause="the run has failed there twice", job_id=job_id)
    print(f"tmrc: {nodes} is to be avoided; submitted as job {job_id}", flush=True)
    return EXIT_WANTS_REQUEUE


def resubmit(job: Job, avoid: Sequence[str]) -> str:
    """Submit the run as a job of its own that keeps off the nodes `avoid`; returns the new job's id.

    Raises UserError with sbatch's words.
    """
    from submitit.core.utils import DelayedSubmission

    from launch.slurm import submit

    exclude = ",".join(filter(None, [job.config.launch.exclude, *avoid])) or None
    launch = dataclasses.replace(job.config.launch, exclude=exclude)
    script = batch_script(job.run, launch, slurm_resources(job.config))
    pickle = job.folder / f"{job.job_id}_submitted.pkl"  # in a directory of our user's alone
    try:
        delayed: Any = DelayedSubmission.load(pickle)
    except OSError as error:
        raise UserError(f"{pickle}: cannot be read: {error.strerror}") from None
    job_id = submit(job.run, delayed.function, script)
    append_event(job.run, "submitted", executor="slurm", job_id=job_id, previous=job.job_id)
    return job_id
