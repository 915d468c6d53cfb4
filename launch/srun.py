"""The step of a job that does the work: one task on each node, each of them Submitit with a `TrainJob`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tmrc.config.schema import LaunchConfig


@dataclass
class Step:
    """srun over `nodes` nodes, with further environment `variables`; Submitit's files of the job lie in `folder`."""

    launch: LaunchConfig
    folder: Path
    job_id: str
    nodes: int
    variables: Mapping[str, str]
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it. Raises OSError where srun is not to be had."""
        self._process = subprocess.Popen(
            self.command(),
            env={**os.environ, **self.variables},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # srun kills its tasks when it is asked to end, so it must not be asked
        )

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int | None:
        """srun's exit code once it has ended."""
        return None if self._process is None else self._process.returncode

    def command(self) -> list[str]:
        """The words. A task that dies takes the others with it; one that could report exits with 0."""
        count, log = str(self.nodes), str(self.folder / f"{self.job_id}_%t_log.out")
        words = [
            "srun", "--unbuffered", "--export=ALL", "--kill-on-bad-exit=1", "--nodes", count, "--ntasks", count,
            "--ntasks-per-node=1", "--cpu-bind=none", "--open-mode=append", "--output", log,
        ]  # fmt: skip
        if self.launch.cpus_per_task:  # since Slurm 22.05 srun no longer takes it over from sbatch
            words.append(f"--cpus-per-task={self.launch.cpus_per_task}")
        python = shlex.split(self.launch.python) if self.launch.python else [sys.executable]
        return [*words, *python, "-u", "-m", "launch.node_main", str(self.folder)]
