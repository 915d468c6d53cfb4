"""What can be known before anything starts is refused before anything starts: one line each, without torch."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.cluster import Partition, ask_cluster, check_fits, check_tasks, check_times, chosen
from launch.gpus import Resources
from tmrc.config.errors import ConfigError, UserError, shown
from tmrc.config.estimate import SAVE_MARGIN, checkpoint_bytes, save_seconds
from tmrc.config.rundir import RunDir
from tmrc.config.schema import Config
from tmrc.config.validate import narrow_heads
from tmrc.config.waiting import waiting
from tmrc.data.plan import DataPlan, mismatches, plan_data

OWN_BYTES = 2_000_000  # of a run besides its checkpoints: code, logs, metrics
# What a file system says that has no nameless files (NFS), or that knows no such call
_NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


@dataclass(frozen=True)
class Facts:
    """What preflight found out: the data, the room on disk, and what the user should be told."""

    data: DataPlan
    free_bytes: int
    warnings: tuple[str, ...] = ()


def preflight(config: Config, resources: Resources, run: RunDir | None = None) -> Facts:
    """Check data, vocabulary, batches and the disk. Raises UserError: file, key, what was given, what is valid.

    `run` is the run to be continued: the checkpoints that it has already are not counted again.
    """
    _check_computation(config, resources)
    kept = config.training.keep_checkpoints
    what = f"keep_checkpoints {kept} and one being written" if config.training.save_model else "code and logs"
    path = Path(config.training.artifacts_path) if run is None else run.path  # a run to be continued may have moved
    free = check_artifacts(path, room_wanted(config, run), what)
    with waiting("the data's files"):
        return _facts(config, plan_data(config), free)


def preflight_points(
    points: Sequence[tuple[str, Config, RunDir | None]], resources: Resources, folder: Path
) -> list[Facts]:
    """The same for the points of a sweep in `folder`: their names, configurations, and runs where they are there.

    Raises UserError that names the first point which is not valid.
    """
    wanted = sum(room_wanted(config, run) for _, config, run in points)
    free = check_artifacts(folder, wanted, f"the checkpoints of {len(points)} points")
    plans: dict[object, DataPlan] = {}
    found = []
    for name, config, _ in points:
        try:
            _check_computation(config, resources)
            found.append(_facts(config, _plan(config, plans), free))
        except UserError as error:
            raise type(error)(f"point {name}: {error}") from None
    return found


def _check_computation(config: Config, resources: Resources) -> None:
    check_batches(config, resources)
    if resources.gpus and config.training.device != "cpu" and (problem := narrow_heads(config)):
        raise ConfigError(f"model.n_head: {problem}")


def _facts(config: Config, data: DataPlan, free: int) -> Facts:
    let_pass = mismatches(config, data.metadata)
    return Facts(data, free, tuple(f"{what}; datasets.allow_mismatch lets it pass" for what in let_pass))


def _plan(config: Config, known: dict[object, DataPlan]) -> DataPlan:
    """The data of a point, looked at once for all that use it in the same way."""
    training = config.training
    lengths = (training.epochs, training.train_steps, training.batch_size, training.val_interval, training.val_batches)
    use = (config.datasets, config.tokenizer, config.model.context_length, lengths)
    if use not in known:
        with waiting("the data's files"):
            known[use] = plan_data(config)
    return known[use]


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
    """PYTHONPATH, which leads to the run's own code, is split at colons; Submitit and Slurm fill in `%`.

    Control characters and bytes that are no text would be written to logs, tables and lists of runs.
    """
    if not str(path.absolute()).isprintable():
        raise ConfigError(
            f"training.artifacts_path: got {shown(str(path.absolute()))}, valid: a path of printable characters"
        )
    if any(sign in str(path.absolute()) for sign in ":%"):
        raise ConfigError(f"training.artifacts_path: got {shown(str(path.absolute()))}, valid: a path without : and %")


def room_wanted(config: Config, run: RunDir | None = None) -> int:
    """Bytes that a run will write; the checkpoints that `run` has already are not counted again."""
    wanted = disk_bytes(config) or 0
    return wanted + OWN_BYTES if run is None else max(0, wanted - _bytes_in(run.checkpoints))


def check_artifacts(path: Path, wanted: int, what: str) -> int:
    """The directory to come must be writable and have room for `wanted` bytes of `what`; returns the free bytes."""
    try:
        folder = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
        status = os.statvfs(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"training.artifacts_path: {path}: {error}") from None
    if not folder.is_dir():
        raise ConfigError(f"training.artifacts_path: {folder}: is not a directory")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"training.artifacts_path: {folder}: you may not write there")
    _try_to_write(folder)
    free = status.f_bavail * status.f_frsize
    if wanted > free:
        raise ConfigError(f"training.artifacts_path: {folder}: {size(free)} free, but {what} take {size(wanted)}")
    return free


def _try_to_write(folder: Path) -> None:
    """Write to a file without a name, which is gone when it is closed: quotas and read-only mounts show themselves."""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            os.write(descriptor, bytes(4096))
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_NAMELESS_FILES:
            raise ConfigError(f"training.artifacts_path: {folder}: cannot be written: {error.strerror}") from None


def _bytes_in(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118
    return total


def disk_bytes(config: Config) -> int | None:
    """Bytes of the checkpoints kept and the one being written; None when the model's size is not known."""
    one = checkpoint_bytes(config) if config.training.save_model else 0
    return None if one is None else (config.training.keep_checkpoints + 1) * one


def check_slurm(config: Config, resources: Resources, tasks: int = 1) -> tuple[list[Partition], str]:
    """Check what the job asks for; returns the partitions that may run it, and why the cluster gave no answer.

    `tasks` are those of an array; `config` is then of the point whose checkpoints take longest.
    """
    for word in (config.launch.python or "").split():
        if word.endswith(".sif") and word.startswith("/") and not Path(word).is_file():
            raise ConfigError(f"launch.python: {word}: no such file")
    save = (save_seconds(config) if config.training.save_model else None) or SAVE_MARGIN
    check_times(config.launch, resources, save)
    cluster = ask_cluster()
    if not cluster.partitions:
        return [], cluster.silence or "sinfo names no partition"
    partitions = chosen(config.launch, cluster)
    check_fits(config.launch, resources, partitions, save)
    if tasks > 1:
        check_tasks(tasks)
    return partitions, ""


def size(count: int) -> str:
    """`1.5 GB` for 1,500,000,000."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
