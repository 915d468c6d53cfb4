"""Hydra launchers whose jobs are runs like everyone's: the array, the requeues and the directories of `tmrc-submit -m`.

They take the settings of hydra-submitit-launcher by its names. Where it would run Hydra's task in a pickled job that
knows nothing of checkpoints, these submit the points of a batch, wait until all are over, and return the validation
losses, so that any sweeper of Hydra's can decide what to try next.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

from launch.grid import Grid, key_of, plain_override
from launch.multirun import Prepared, prepare, submit_points
from launch.multirun_local import run_all
from launch.multirun_show import say_notes
from launch.points import plan_sweep, read_points
from launch.status import Asker, RunStatus, statuses
from launch.submit import Request
from launch.sweepfiles import begin, sweep_lock
from tmrc.config.errors import UserError
from tmrc.config.rundir import EXIT_WANTS_REQUEUE

PLUGIN = "hydra_plugins.tmrc"  # where Hydra finds this module (see launch.sweep)
# Names of hydra-submitit-launcher -> keys of the `launch:` section, and how the value becomes that key's
_FLAGS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    **{name: (name, lambda value: value) for name in (
        "partition", "account", "qos", "nodes", "gpus_per_node", "cpus_per_task", "constraint", "exclude", "name",
        "setup",
    )},
    "timeout_min": ("time", str),
    "mem_gb": ("mem", lambda value: f"{value}G"),
    "signal_delay_s": ("warning", lambda value: value),
    "additional_parameters": ("sbatch", lambda value: value or None),
}  # fmt: skip


@dataclass
class LocalConf:
    """Settings of `hydra/launcher=tmrc_local`. The first three are set by launch.sweep."""

    source: str
    swept: list[str]
    trainer: str
    _target_: str = f"{PLUGIN}.LocalPoints"
    parallel: int | None = None  # points at a time
    gpus_per_node: int | None = None


@dataclass
class SlurmConf:
    """Settings of `hydra/launcher=tmrc_slurm`, by the names of hydra-submitit-launcher; null leaves it to `launch:`."""

    source: str
    swept: list[str]
    trainer: str
    _target_: str = f"{PLUGIN}.SlurmPoints"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int | None = None
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: int | None = None
    timeout_min: int | None = None
    constraint: str | None = None
    exclude: str | None = None
    name: str | None = None
    signal_delay_s: int | None = None
    setup: list[str] | None = None
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    array_parallelism: int | None = None  # points at a time
    poll_seconds: float = 5.0  # between looks at the runs


class _Points(BaseSubmititLauncher):  # type: ignore[misc]
    """A launcher of points, a batch at a time."""

    sweep = ""  # its directory, once there is one

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of points; returns their validation losses. A mistake ends the search, in one line."""
        assert self.config is not None
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # sweepers leave their results there
        try:
            return self._launch([[plain_override(text) for text in one] for one in job_overrides])
        except UserError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            left = f"; jobs stay in the queue: tmrc cancel {self.sweep} ends them" if self.sweep else ""
            print(f"interrupted{left}", file=sys.stderr)
            sys.exit(130)

    def _launch(self, batch: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
        swept = tuple(self.params["swept"])
        own = tuple(tuple(text for text in one if key_of(text) in swept) for one in batch)
        grid = Grid(tuple(text for text in batch[0] if key_of(text) not in swept), swept, own)
        source, trainer = self.params["source"], self.params["trainer"]
        given = {name: self.params.get(name) for name in _FLAGS}
        flags = {_FLAGS[name][0]: _FLAGS[name][1](value) for name, value in given.items() if value is not None}
        parallel = self.params.get("parallel", self.params.get("array_parallelism"))
        if parallel is not None and parallel < 1:
            raise UserError(f"hydra.launcher: got {parallel} points at a time, valid: 1 or more")
        local = isinstance(self, LocalPoints)
        request = Request(source, (), flags, local, command=tuple(sys.argv), trainer=trainer, parallel=parallel)
        folder, configs = read_points(source, grid, flags)
        for one, config in zip(own, configs, strict=True):
            if not config.training.val_interval or config.datasets.val_split_size == 0:
                raise UserError(f"point {' '.join(one)}: has no validation, whose loss a search goes by")
        with sweep_lock(folder):
            prepared = prepare(plan_sweep(folder, source, grid, configs), request, parallel)
            if not self.sweep:
                self.sweep = shlex.quote(str(folder.path))
                print(f"{'sweep':9}{folder.path}\n{'watch':9}tmrc status {self.sweep}", file=sys.stderr)
            self._begin(prepared, request)
        ended = self._wait(prepared)
        points = {point.overrides: point for point in prepared.sweep.points}
        return [_returned(ended[points[key].run.path.name], one) for key, one in zip(own, batch, strict=True)]

    def _begin(self, prepared: Prepared, request: Request) -> None:
        """Start what is to run."""
        raise NotImplementedError

    def _wait(self, prepared: Prepared) -> dict[str, RunStatus]:
        """Wait until no point is in the queue or runs; returns run id -> how it stands."""
        asker, before = Asker(), ""
        while True:
            found, problem = statuses([point.run for point in prepared.sweep.points], asker)
            words = ", ".join(f"{count} {state}" for state, count in Counter(one.state for one in found).items())
            words += f" (queue unknown: {problem})" if problem else ""
            if words != before:
                before = words
                print(f"{prepared.sweep.folder.path.name}: {words}", file=sys.stderr, flush=True)
            if not any(one.active for one in found):
                return {one.run_id: one for one in found}
            time.sleep(float(self.params.get("poll_seconds") or 1.0))


class SlurmPoints(_Points):
    """`hydra/launcher=tmrc_slurm`: each batch is one Slurm array."""

    def _begin(self, prepared: Prepared, request: Request) -> None:
        def tell(job_ids: Sequence[str]) -> None:
            if job_ids:
                array = job_ids[0].partition("_")[0]
                print(f"submitted array {array}: {len(job_ids)} points", file=sys.stderr, flush=True)
            say_notes(prepared)

        submit_points(prepared, request, tell)


class LocalPoints(_Points):
    """`hydra/launcher=tmrc_local`: on this machine, some at a time."""

    def _begin(self, prepared: Prepared, request: Request) -> None:
        say_notes(prepared)
        begin(prepared.sweep, prepared.array, request.command)
        ended = run_all(prepared, request.trainer)
        if len(ended) < len(prepared.sweep.to_run) or any(one.exit_code == EXIT_WANTS_REQUEUE for one in ended):
            print(f"stopped; the same command goes on with {prepared.sweep.folder.path}", file=sys.stderr)
            sys.exit(EXIT_WANTS_REQUEUE)


def _returned(one: RunStatus, overrides: Sequence[str]) -> JobReturn:
    """What Hydra's sweepers take: the validation loss, or the error of a point that has none."""
    done = one.state == "finished" and one.val_loss is not None
    result = JobReturn(overrides=list(overrides), working_dir=one.run_dir, task_name=one.run_id)
    result.status = JobStatus.COMPLETED if done else JobStatus.FAILED
    why = f"error: {one.run_dir}: {one.state}: {one.cause or 'no validation loss'}"
    result.return_value = one.val_loss if done else CompactHydraException(why)  # which Hydra shows as this line alone
    return result
