"""The batch script of a run: what `--dry-run` prints is, letter for letter, what is handed to sbatch.

The script only prepares the shell and becomes the supervisor (launch/supervise.py), which starts training by srun.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from launch.environment import user_defaults
from launch.gpus import Resources
from launch.settings import check_launch, check_script_path
from tmrc.config.rundir import RunDir
from tmrc.config.schema import LaunchConfig

# A caught signal does its default, which is to kill, in the program that bash becomes; an ignored one stays ignored
# until the program listens. So set-up notes what comes, and the last step ignores it.
EARLY_SIGNAL = "TMRC_EARLY_SIGNAL"  # TERM or USR2: came before the supervisor did
_NOTE = [f"trap 'export {EARLY_SIGNAL}={name}' {name}" for name in ("TERM", "USR2")]


def batch_script(
    run: RunDir, launch: LaunchConfig, resources: Resources, runs_file: Path | None = None, array: str | None = None
) -> str:
    """The script of one run or, with `array` ("0-9%2") and `runs_file` (a run directory a line), of many.

    An array's `run` is the directory whose code/ and submitit/ all its tasks share. Nothing but the arguments decides
    the text, so a job can render its successor's. Raises ConfigError for a value not allowed.
    """
    check_launch(launch)
    for path in (run.path, *([runs_file] if runs_file is not None else [])):
        check_script_path("training.artifacts_path", path)
    lines = ["#!/bin/bash"]
    for name, value in directives(run, launch, resources, array).items():
        lines.append(f"#SBATCH --{name}" + (f"={shlex.quote(value)}" if value else ""))
    lines += ["", "# a signal before the supervisor listens is noted, not died of", *_NOTE]
    if launch.setup:
        lines += ["", "# launch.setup", *launch.setup]
    what = ["--runs", str(runs_file)] if runs_file is not None else [str(run.path)]
    lines += [
        "",
        "# the run's own copy of the code, before anything else that is called tmrc",
        f"export PYTHONPATH={shlex.quote(str(run.code))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONSAFEPATH=1",
        "export SUBMITIT_EXECUTOR=slurm",
        "trap '' TERM USR2",
        f"exec {shlex.join([sys.executable, '-u', '-m', 'launch.supervise', *what])}",
    ]
    return "\n".join(lines) + "\n"


def script_notes(launch: LaunchConfig, script: str) -> Iterator[str]:
    """What a user may not have thought of."""
    for name, value in user_defaults(os.environ, script).items():
        yield f"{name}={value} in your environment decides what the script leaves open"
    if "#SBATCH --cpus-per-" not in script:
        yield "launch.cpus_per_task is not set, so a node gives the cores that the partition does by default, often one"


def directives(run: RunDir, launch: LaunchConfig, resources: Resources, array: str | None = None) -> dict[str, str]:
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
        "array": array,
        "signal": f"USR2@{resources.warning}",
        "requeue": "",
        "open-mode": "append",
        "output": str(run.submitit / f"{'%A_%a' if array else '%j'}_0_log.out"),  # where Submitit looks for it
        **_further(launch, resources),
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _further(launch: LaunchConfig, resources: Resources) -> dict[str, str]:
    """launch.sbatch without what sbatch would not take together with a key of ours, or without GPUs."""
    left_out = {"cpus-per-gpu": launch.cpus_per_task, "mem-per-gpu": launch.mem, "mem-per-cpu": launch.mem}
    return {
        name: value
        for name, value in launch.sbatch.items()
        if left_out.get(name) is None and (resources.gpus or not name.endswith("-per-gpu"))
    }
