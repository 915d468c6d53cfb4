"""`tmrc-submit` with the trainer that can be held: `python -m tests.slurm.submit ARGUMENTS`.

`python -m tests.slurm.submit --array CONFIG KEY=VALUE...` submits an array of two: a task that has no run and ends at
once, and the run as task 1, as a sweep's; it prints what `--json` does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TRAINER = "tests.slurm.trainer"


def submit_array(source: str, overrides: list[str]) -> None:
    """The run as the second task of an array."""
    from launch.gpus import slurm_resources
    from launch.job import TrainJob
    from launch.rundirs import create_run, new_run_id
    from launch.script import Array, batch_script
    from launch.settings import load_settings
    from launch.slurm import submit_array
    from tmrc.config.rundir import append_event

    config = load_settings(source, overrides, {})
    run = create_run(config, new_run_id(config, source), sys.argv)
    resources = slurm_resources(config)
    array = Array(f"sweep-{run.run_id}", 2, None, run.path.parent / f"sweep-{run.run_id}")
    array.submitit.mkdir(parents=True, mode=0o700)
    array.runs_file.write_text(f"{array.folder / 'none'}\n{run.path}\n")
    job = TrainJob(str(run.path), resources.processes, resources.devices, trainer=TRAINER)
    job_id = submit_array(array.submitit, [job, job], batch_script(array, config.launch, resources))[1]
    append_event(run, "submitted", executor="slurm", job_id=job_id, overrides=overrides)
    print(json.dumps({"run_id": run.run_id, "run_dir": str(run.path), "job_id": job_id}))


if __name__ == "__main__":
    if sys.argv[1] == "--array":
        submit_array(str(Path(sys.argv[2])), sys.argv[3:])
    else:
        from launch.cli.submit import main

        main(TRAINER)
