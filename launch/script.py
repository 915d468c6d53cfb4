"""The batch script of a run: what `--dry-run` prints is, letter for letter, what is handed to sbatch.

The script only prepares the shell and becomes the supervisor (launch/supervise.py), which starts training by srun.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.environment import user_defaults
from launch.gpus import Resources
from launch.plaintext import one_line
from launch.settings import check_launch, check_script_path
from tmrc.config.errors import shortened
from tmrc.config.rundir import RunDir
from tmrc.config.schema import LaunchConfig

# A caught signal does its default, which is to kill, in the program that bash becomes; an ignored one stays ignored
# until the program listens. So set-up notes what comes, and the last step ignores it.
EARLY_SIGNAL = "TMRC_EARLY_SIGNAL"  # which one of _SIGNALS came before the supervisor did
SETUP_FAILED = "TMRC_SETUP_FAILED"  # which line of launch.setup ended with what
FIRST_PATH = "TMRC_PATH"  # PATH before set-up
_SIGNALS = ("TERM", "USR2", "USR1", "HUP")
_MAX_LINE = 500  # characters of a set-up line in a message
# A line that fails, `exit` and a syntax error all come to tmrc_ended; files that a line sources are their own affair.
_WATCH_SETUP = f"""\
# launch.setup: where a line of it fails, the supervisor says so instead of starting the run
tmrc_ended() {{
  local code=$?
  trap - ERR EXIT
  ((code <= 128)) || sleep 1 # the signal that ended the line may be on its way to this shell, too
  [[ -n ${{{EARLY_SIGNAL}:-}} ]] || export {SETUP_FAILED}="$tmrc_line, exit code $code"
  tmrc_start
}}
trap tmrc_ended EXIT
trap 'tmrc_code=$?; ((${{#BASH_SOURCE[@]}} > 1)) || exit "$tmrc_code"' ERR"""


@dataclass(frozen=True)
class Array:
    """An array of jobs: its name, how many tasks it has and may run at a time, and where its files are.

    `folder` holds runs.txt, a run directory a line, and submitit/ with the logs of all tasks.
    """

    name: str
    tasks: int
    parallel: int | None
    folder: Path

    @property
    def runs_file(self) -> Path:
        """Task k runs the run in line k, counted from 0."""
        return self.folder / "runs.txt"

    @property
    def submitit(self) -> Path:
        """Submitit's directory of the array."""
        return self.folder / "submitit"


def batch_script(what: RunDir | Array, launch: LaunchConfig, resources: Resources) -> str:
    """The script of one run or of an array.

    Nothing but the arguments decides the text, so a job can render its successor's. Raises ConfigError for a value
    that is not allowed.
    """
    check_launch(launch)
    check_script_path("training.artifacts_path", what.folder if isinstance(what, Array) else what.path)
    lines = ["#!/bin/bash"]
    for name, value in directives(what, launch, resources).items():
        lines.append(f"#SBATCH --{name}" + (f"={shlex.quote(value)}" if value else ""))
    arguments = ["--runs", str(what.runs_file)] if isinstance(what, Array) else [str(what.path)]
    lines += [
        "",
        "# a signal before the supervisor listens is noted, not died of",
        *(f"trap 'export {EARLY_SIGNAL}={name}' {name}" for name in _SIGNALS),
        f'export {FIRST_PATH}="$PATH" # has Slurm\'s commands, whatever set-up does to PATH',
        "",
        "# the run's own copy of the code, before anything else that is called tmrc",
        f"tmrc_run={_run_words(what)}",
        "tmrc_start() {",
        '  export PYTHONPATH="$tmrc_run/code${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1',
        "  export SUBMITIT_EXECUTOR=slurm",
        f"  trap '' {' '.join(_SIGNALS)}",
        f"  exec {shlex.join([sys.executable, '-u', '-m', 'launch.supervise', *arguments])}",
        "}",
        *_setup(launch.setup),
        "",
        "tmrc_start",
    ]
    return "\n".join(lines) + "\n"


def _run_words(what: RunDir | Array) -> str:
    """The run's directory in shell; an array's task looks it up in the list, in which each run has a line."""
    if isinstance(what, RunDir):
        return shlex.quote(str(what.path))
    return f'"$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(what.runs_file))})"'


def _setup(given: Sequence[str]) -> list[str]:
    """The set-up lines, each announced to what watches them."""
    if not given:
        return []
    lines = ["", _WATCH_SETUP]
    for number, line in enumerate(given, 1):
        lines += [f"tmrc_line={shlex.quote(f'line {number}: {line[:_MAX_LINE]}')}", line]
    return [*lines, "trap - ERR EXIT"]


def script_notes(launch: LaunchConfig, script: str) -> Iterator[str]:
    """What a user may not have thought of."""
    for name, value in user_defaults(os.environ, script).items():
        yield f"{name}={one_line(shortened(value, 200))} in your environment decides what the script leaves open"
    program = (launch.python or "").split(" ")[0]
    if program.startswith("/") and not Path(program).exists():
        yield f"launch.python: {program} is not on this machine; the nodes must have it"
    if "#SBATCH --cpus-per-" not in script:
        yield "launch.cpus_per_task is not set, so a node gives the cores that the partition does by default, often one"


def directives(what: RunDir | Array, launch: LaunchConfig, resources: Resources) -> dict[str, str]:
    """sbatch's parameters by their long names; an empty text is a parameter without a value."""
    array = what if isinstance(what, Array) else None
    wanted = {
        "job-name": what.name if isinstance(what, Array) else what.run_id,
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
        "array": _tasks(array) if array else None,
        "signal": f"USR2@{resources.warning}",
        "requeue": "",
        "open-mode": "append",
        "output": str(what.submitit / f"{'%A_%a' if array else '%j'}_0_log.out"),  # where Submitit looks for it
        **_further(launch, resources),
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _tasks(array: Array) -> str:
    """Its tasks as sbatch writes them: `0-9%2`."""
    return f"0-{array.tasks - 1}" + (f"%{array.parallel}" if array.parallel else "")


def _further(launch: LaunchConfig, resources: Resources) -> dict[str, str]:
    """launch.sbatch without what sbatch would not take together with a key of ours, or without GPUs."""
    left_out = {"cpus-per-gpu": launch.cpus_per_task, "mem-per-gpu": launch.mem, "mem-per-cpu": launch.mem}
    return {
        name: value
        for name, value in launch.sbatch.items()
        if left_out.get(name) is None and (resources.gpus or not name.endswith("-per-gpu"))
    }
