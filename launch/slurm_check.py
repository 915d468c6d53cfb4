"""What a batch script is checked against before it is submitted: whether there is a Slurm, and what it can give."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from launch.cluster import Partition
from launch.forecast import Forecast, forecast
from launch.gpus import Resources
from launch.preflight import check_slurm
from launch.script import script_notes
from tmrc.config.errors import UserError
from tmrc.config.schema import Config


@dataclass(frozen=True)
class SlurmAnswer:
    """The partitions that may run the job, when it would start (None where that was not asked), and what to tell."""

    partitions: Sequence[Partition]
    start: Forecast | None
    notes: tuple[str, ...]


def check_script(script: str, config: Config, resources: Resources, dry_run: bool, tasks: int = 1) -> SlurmAnswer:
    """Check the script of a job, or of an array of `tasks`; `config` is of the point whose checkpoints take longest.

    A dry run also asks when it would start, and is content without a Slurm. Raises UserError.
    """
    has_slurm = shutil.which("sbatch") is not None
    if not has_slurm and not dry_run:
        raise UserError("no sbatch on PATH, so there is no Slurm here; use --local to run on this machine")
    partitions, silence = check_slurm(config, resources, tasks)
    start = forecast(script, partitions) if dry_run and has_slurm and not silence else None
    notes = list(script_notes(config.launch, script))
    if not has_slurm:
        notes.append("no sbatch on PATH, so nothing was checked against a cluster; --local runs on this machine")
    elif silence:
        notes.append(f"the cluster does not answer, so nothing was checked against it: {silence}")
    return SlurmAnswer(partitions, start, tuple(notes))
