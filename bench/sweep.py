"""Submitting a sweep of a hundred runs, beside Submitit's own way of submitting them one by one."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.harness import ROOT, Aim, Figure, Given, Result, Side, compare
from bench.processes import environment, process, with_processor
from tests.launch import fake_slurm
from tests.launch.helpers import write_config

POINTS = 100
SWEPT = ("optimizer.lr=range(1,11)", "training.seed=range(0,10)")
# An sbatch that takes no time of its own on either side: it counts its calls and keeps the script
SBATCH = """#!/bin/bash
here=$(dirname "$0")
if [[ "$1" == --test-only ]]; then
  echo "sbatch: Job 1 to start at 2026-11-22T14:48:38 using 8 processors on nodes node1 in partition gpu" >&2
  exit 0
fi
echo x >> "$here/calls"
mapfile -t calls < "$here/calls"
echo "Submitted batch job ${#calls[@]}"
"""
SILENT = ("squeue", "scontrol", "srun")
ONE_BY_ONE = """
import sys
import submitit

executor = submitit.SlurmExecutor(sys.argv[1])
executor.update_parameters(partition="gpu", time=60)
jobs = [executor.submit(print, rate, seed) for rate in range(1, 11) for seed in range(10)]
assert len({job.job_id for job in jobs}) == len(jobs)
"""


def run(given: Given) -> Iterator[Result]:
    """Whole processes on both sides, with the same sbatch. What ours also does (checks, run directories) counts."""
    folder = given.scratch / "bin"
    slurm = fake_slurm.install(folder, sbatch=SBATCH, sinfo=fake_slurm.SINFO, **dict.fromkeys(SILENT, "#!/bin/bash\n"))
    env = environment(given.scratch, **slurm)
    config, theirs = write_config(given.scratch), given.scratch / "theirs"
    # Never one that was used before: ext4 takes thirty times as long for new files where old ones were just deleted
    places = (given.scratch / "artifacts" / str(number) for number in itertools.count())

    def ours() -> list[str]:
        place = f"training.artifacts_path={next(places)}"
        return ["-m", "launch.cli.submit", "-m", "-p", "gpu", str(config), *SWEPT, place]

    def peer() -> list[str]:
        return ["-c", ONE_BY_ONE, str(theirs / next(places).name)]

    def forget() -> None:
        (folder / "calls").unlink(missing_ok=True)

    _require_equal(ours(), peer(), env, folder / "calls")
    forget()
    computed: list[float] = []
    yield compare(
        f"submit {POINTS} runs",
        Aim("at least", 50),
        Side("tmrc-submit -m", with_processor(lambda: process(ours(), env, forget)(), computed)),
        Side("submitit one by one", lambda: process(peer(), env, forget)()),
        given.repeats,
    )
    yield Figure("processor time of tmrc-submit -m", tuple(computed[1:]), "s")


def _require_equal(ours: list[str], peer: list[str], env: dict[str, str], calls: Path) -> None:
    """Raise AssertionError unless both submit as many runs, ours with one call of sbatch."""
    said = subprocess.run(
        [sys.executable, *ours, "--json"], env=env, cwd=ROOT, check=True, capture_output=True, text=True
    )
    jobs = json.loads(said.stdout)["jobs"]
    assert len({job["job_id"] for job in jobs}) == len(jobs) == POINTS
    assert all((Path(job["run_dir"]) / "run.json").is_file() for job in jobs)
    assert len(calls.read_text().split()) == 1
    calls.unlink()
    subprocess.run([sys.executable, *peer], env=env, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert len(calls.read_text().split()) == POINTS
