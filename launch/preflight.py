"""What can be known before anything starts is refused before anything starts: one line each, without torch."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from launch.gpus import Resources
from tmrc.config.errors import ConfigError, UserError, shown
from tmrc.config.estimate import checkpoint_bytes
from tmrc.config.schema import Config
from tmrc.config.validate import narrow_heads
from tmrc.data.plan import DataPlan, mismatches, plan_data


@dataclass(frozen=True)
class Facts:
    """What preflight found out: the data, the room on disk, and what the user should be told."""

    data: DataPlan
    free_bytes: int
    warnings: tuple[str, ...] = ()


def preflight(config: Config, resources: Resources) -> Facts:
    """Check data, vocabulary, batches and the disk. Raises UserError: file, key, what was given, what is valid."""
    check_batches(config, resources)
    if resources.gpus and config.training.device != "cpu" and (problem := narrow_heads(config)):
        raise ConfigError(f"model.n_head: {problem}")
    free = check_artifacts(config)
    data = plan_data(config)
    let_pass = mismatches(config, data.metadata)
    return Facts(data, free, tuple(f"{what}; datasets.allow_mismatch lets it pass" for what in let_pass))


def check_batches(config: Config, resources: Resources) -> None:
    """The global batch must be divisible among the ranks, and each rank's share into micro-batches."""
    ranks = config.launch.nodes * resources.processes
    batch, micro = config.training.batch_size, config.training.micro_batch_size
    if batch % ranks:
        near = [n * ranks for n in (batch // ranks, batch // ranks + 1) if n]
        raise ConfigError(
            f"training.batch_size: got {batch} over {ranks} processes, valid: a multiple of {ranks}, such as "
            f"{' or '.join(map(str, near))}"
        )
    if micro != "auto" and (batch // ranks) % micro:
        raise ConfigError(
            f"training.micro_batch_size: got {micro}, valid: auto or a divisor of {batch // ranks}, the sequences of "
            f"each of {ranks} processes"
        )


def check_run_path(path: Path) -> None:
    """PYTHONPATH, which leads to the run's own code, is split at colons; Submitit and Slurm fill in `%`."""
    if any(sign in str(path.absolute()) for sign in ":%"):
        raise ConfigError(f"training.artifacts_path: got {shown(str(path.absolute()))}, valid: a path without : and %")


def check_artifacts(config: Config) -> int:
    """The run directory must be writable and have room for the checkpoints; returns the free bytes."""
    path = Path(config.training.artifacts_path)
    try:
        folder = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
        status = os.statvfs(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"training.artifacts_path: {path}: {error}") from None
    if not folder.is_dir():
        raise ConfigError(f"training.artifacts_path: {folder}: is not a directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"training.artifacts_path: {folder}: you may not write there")
    free = status.f_bavail * status.f_frsize
    wanted = disk_bytes(config)
    if wanted is not None and wanted > free:
        raise ConfigError(
            f"training.artifacts_path: {folder}: {size(free)} free, but keep_checkpoints "
            f"{config.training.keep_checkpoints} and one being written take {size(wanted)}"
        )
    return free


def disk_bytes(config: Config) -> int | None:
    """Bytes of the checkpoints kept and the one being written; None when the model's size is not known."""
    one = checkpoint_bytes(config) if config.training.save_model else 0
    return None if one is None else (config.training.keep_checkpoints + 1) * one


def check_sbatch() -> None:
    """Raise UserError where there is no Slurm."""
    if shutil.which("sbatch") is None:
        raise UserError("no sbatch on PATH, so there is no Slurm here; use --local to run on this machine")


def size(count: int) -> str:
    """`1.5 GB` for 1,500,000,000."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
