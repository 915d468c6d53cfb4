"""Commands as whole processes: how long a person waits for `tmrc-submit` and `tmrc status`."""

from __future__ import annotations

from collections.abc import Iterator

from bench.harness import Aim, Figure, Given, Result, Side, compare, repeated
from bench.processes import environment, process
from tests.launch import fake_slurm
from tests.launch.helpers import write_config
from tests.report.made import make_sweep

RUNS, ROWS = 500, 100
SUBMIT = ("-c", "from launch.cli.submit import main; main()")  # as the installed script does


def run(given: Given) -> Iterator[Result]:
    """The peer is what a launcher of Hydra and Submitit imports before it does anything."""
    slurm = fake_slurm.install(given.scratch / "bin", sbatch=fake_slurm.SBATCH, sinfo=fake_slurm.SINFO)
    env = environment(given.scratch, **slurm)
    config = str(write_config(given.scratch))
    peer = Side("import submitit, hydra", process(["-c", "import submitit, hydra"], env))
    for what, arguments, aim in (
        ("tmrc-submit --help", ["--help"], 0.25),
        ("tmrc-submit --dry-run, on Slurm", ["--dry-run", "-p", "gpu", config], 0.8),
        ("tmrc-submit --local --dry-run", ["--local", "--dry-run", config], 0.8),
    ):
        ours = Side("tmrc", process([*SUBMIT, *arguments], env))
        yield compare(what, Aim("at most", aim), ours, peer, given.repeats)
    folder = str(make_sweep(given.scratch / "runs", RUNS, ROWS))
    seconds = repeated(process(["-m", "launch.cli.main", "status", folder], env), given.repeats)
    yield Figure(f"tmrc status on {RUNS} runs", seconds, "s", Aim("at most", 1))
