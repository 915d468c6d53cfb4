"""Jobs of a sweep that Slurm has and the runs' events do not know: the submission was killed before it could say so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from launch.commands import SilentError, ask
from launch.queue import PATIENCE
from launch.sweepdir import SweepDir
from tmrc.config.rundir import RunDir, append_event

_ACTIVE = "PENDING,CONFIGURING,RUNNING,COMPLETING,SUSPENDED"


def adopt(sweep: SweepDir, run_ids: Iterable[str]) -> set[str]:
    """Write into the events of these runs which job they have, where Slurm still has one; returns the runs' ids.

    A job is the sweep's if it has its name and a script of its directory, whose list of runs says which one a task is.
    """
    wanted, found = set(run_ids), set()
    for job_id, script in _jobs(sweep.path.name):
        run = _run_of(sweep, job_id, script)
        if run is None or run.path.name not in wanted:
            continue
        found.add(run.path.name)
        with contextlib.suppress(OSError):
            append_event(run, "submitted", executor="slurm", job_id=job_id)
    return found


def _jobs(name: str) -> list[tuple[str, str]]:
    """(id, script) of the tasks in Slurm's queue that have this name; none where nobody answers."""
    try:
        done = ask("squeue", "-h", "-r", "-n", name, "-t", _ACTIVE, "-o", "%i|%o", patience=PATIENCE)
    except SilentError:
        return []
    lines = [line.strip().partition("|") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return [(job_id, script) for job_id, _, script in lines if script]


def _run_of(sweep: SweepDir, job_id: str, script: str) -> RunDir | None:
    """The run in the list beside the script of an array; None for a script that is not of this sweep."""
    folder = Path(script).parent.parent
    task = job_id.partition("_")[2]
    if folder.parent != sweep.path / "submissions" or not task.isdecimal():
        return None
    try:
        listed = (folder / "runs.txt").read_text("utf8").splitlines()
        return RunDir(Path(listed[int(task)]))
    except (OSError, ValueError, IndexError):
        return None
