"""The batch script of a run: what `--dry-run` prints is, letter for letter, what is handed to sbatch."""

from __future__ import annotations

import shlex
import sys

from launch.cluster import WARNING_SECONDS
from launch.gpus import Resources
from launch.settings import check_launch, check_script_path
from tmrc.config.rundir import RunDir
from tmrc.config.schema import LaunchConfig


def batch_script(run: RunDir, launch: LaunchConfig, resources: Resources) -> str:
    """One task on each node, which runs Submitit, which runs the job. Raises ConfigError for a value not allowed."""
    check_launch(launch)
    check_script_path("training.artifacts_path", run.path)
    lines = ["#!/bin/bash"]
    for name, value in directives(run, launch, resources).items():
        lines.append(f"#SBATCH --{name}" + (f"={shlex.quote(value)}" if value else ""))
    if launch.setup:
        lines += ["", "# launch.setup", *launch.setup]
    code = shlex.quote(str(run.code))
    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(run.submitit))}"
    lines += [
        "",
        "# the run's own copy of the code, before anything else that is called tmrc",
        f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        "export SUBMITIT_EXECUTOR=slurm",
        f"{_srun(run, launch)} {command}",
    ]
    return "\n".join(lines) + "\n"


def directives(run: RunDir, launch: LaunchConfig, resources: Resources) -> dict[str, str]:
    """sbatch's parameters by their long names; an empty text is a parameter without a value."""
    wanted = {
        "job-name": run.run_id,
        "partition": launch.partition,
        "account": launch.account,
        "qos": launch.qos,
        "nodes": str(launch.nodes),
        "ntasks-per-node": "1",
        "gpus-per-node": str(resources.gpus) if resources.gpus and "gres" not in launch.sbatch else None,
        "cpus-per-task": str(launch.cpus_per_task) if launch.cpus_per_task else None,
        "mem": launch.mem,
        "time": launch.time,
        "constraint": launch.constraint,
        "exclude": launch.exclude,
        "signal": f"USR2@{WARNING_SECONDS}",
        "requeue": "",
        "open-mode": "append",
        "output": str(run.submitit / "%j_0_log.out"),
        **launch.sbatch,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _srun(run: RunDir, launch: LaunchConfig) -> str:
    words = ["srun", "--unbuffered", "--open-mode=append", "--output", str(run.submitit / "%j_%t_log.out")]
    if launch.cpus_per_task:  # since Slurm 22.05 srun no longer takes it over from sbatch
        words.append(f"--cpus-per-task={launch.cpus_per_task}")
    return shlex.join(words)
