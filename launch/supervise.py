"""The batch step of a Slurm job: begins an attempt, starts training on the nodes, and sees to what comes after it.

It stands outside of the steps that Slurm warns and kills, so it is still there when they are gone: it asks for the
queue again once the checkpoint is durable, holds a run that fails for its own reasons, and leaves a run alone that
somebody has cancelled. The batch script becomes this process: `python -m launch.supervise RUN_DIR`.
"""

from __future__ import annotations

from launch.signals import hold_back

if __name__ == "__main__":
    hold_back()  # before the imports below, which take a while

import contextlib
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.attempts import Ending, hold_lock, last_attempt, newest_step, read_owner
from launch.job import last_line
from launch.jobs import NoSlurmError, hosts, job_id_of
from launch.script import FIRST_PATH
from launch.supervisor import Signals, Supervisor
from tmrc.config.errors import UserError
from tmrc.config.load import load_config
from tmrc.config.rundir import (
    EXIT_FINISHED,
    EXIT_USER_ERROR,
    EXIT_WANTS_REQUEUE,
    RunDir,
    append_event,
    read_jsonl,
)
from tmrc.config.schema import Config
from tmrc.data.plan import plan_data

LOCK_PATIENCE = 60.0  # seconds for the supervisor of the attempt before to be gone
OWN_PATIENCE = 10.0  # the same, after a requeue: Slurm has seen to it that it is gone, unless its node is lost


def main(arguments: Sequence[str]) -> int:
    """Run one attempt of the run that is named, or of the array task's line in `--runs FILE`."""
    signals = Signals()
    signals.listen()
    # Set-up may have dropped Slurm's own commands (`module purge`).
    os.environ["PATH"] = os.pathsep.join(filter(None, [os.environ.get("PATH"), os.environ.pop(FIRST_PATH, "")]))
    run, folder = _run_and_folder(arguments)
    try:
        job_id = job_id_of(os.environ)
        lock = _take_over(run, job_id)
        config = load_config(run.config)
        if nothing_left(run, config):
            print(last_line(Ending(EXIT_FINISHED, "finished", "by another job; nothing is left to do")), flush=True)
            return EXIT_FINISHED
        if run.cancel.exists():
            ending = Ending(EXIT_WANTS_REQUEUE, "cancelled", "cancelled before it began")
            append_event(run, "cancelled", attempt=last_attempt(run), step=newest_step(run))
            print(last_line(ending), flush=True)
            return ending.exit_code
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        nodes = hosts(os.environ) or (socket.gethostname(),)
        code = Supervisor(run, config, job_id, restarts, nodes, folder, signals).attempt()
    except (UserError, NoSlurmError) as error:
        print(last_line(Ending(EXIT_USER_ERROR, "failed", str(error))), flush=True)
        return EXIT_USER_ERROR
    if lock is not None:
        os.close(lock)
    return code


def nothing_left(run: RunDir, config: Config) -> bool:
    """Whether the run has done all of its steps: another job, of which its submission did not know, was faster."""
    kinds = ("started", "resumed", "failed", "finished")
    ends = [row for row in read_jsonl(run.events) if row.get("event") in kinds]
    if not ends or ends[-1]["event"] != "finished":
        return False
    try:
        return plan_data(config).total_steps <= int(ends[-1]["step"])
    except (UserError, KeyError, TypeError, ValueError):
        return False


def _take_over(run: RunDir, job_id: str) -> int | None:
    """The run's lock. None when the job's own earlier attempt still has it: that one's node was lost, and it is fenced.

    Raises UserError when another job has it.
    """
    owner = read_owner(run, last_attempt(run))
    same_job = owner is not None and owner.job_id == job_id
    try:
        return hold_lock(run, patience=OWN_PATIENCE if same_job else LOCK_PATIENCE)
    except UserError:
        if owner is None or not same_job:
            raise
    print(f"tmrc: the attempt before, on {owner.host}, has not ended; taking over from it", flush=True)
    return None


def _run_and_folder(arguments: Sequence[str]) -> tuple[RunDir, Path]:
    """The run, and the directory with Submitit's files: beside the list of runs for an array's task."""
    if arguments[0] == "--runs":
        listed = Path(arguments[1])
        task = int(os.environ["SLURM_ARRAY_TASK_ID"])
        folder = RunDir(listed.parent).submitit
        with contextlib.suppress(OSError):  # there already, unless the submission was killed before it had named it
            (folder / f"{job_id_of(os.environ)}_submitted.pkl").hardlink_to(folder / f"array_{task}.pkl")
        return RunDir(Path(listed.read_text("utf8").splitlines()[task])), folder
    run = RunDir(Path(arguments[0]))
    return run, run.submitit


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
