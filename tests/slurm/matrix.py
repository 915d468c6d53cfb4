"""Every interruption in every setting: `python -m tests.slurm.matrix`, or `make slurm-matrix`.

Each case is a real run on a private Slurm cluster, interrupted once, and compared with an uninterrupted run: every
logged number and every weight must be the same, bit for bit, no process may be left, and the work that was lost is
counted. A whole matrix is written to docs/slurm-matrix.md. Exits with 1 when a case fails.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import as_completed
from pathlib import Path

from tests.slurm.batch import WORKERS, Batch, Job
from tests.slurm.cases import CASES, Setting
from tests.slurm.cluster import sweep
from tests.slurm.conftest import FOLDER
from tests.slurm.install import obstacle
from tests.slurm.live import ROOT, STEPS, write_data
from tests.slurm.pool import Pool

TABLE = ROOT / "docs" / "slurm-matrix.md"
TRACKS = ("cgroup", "linuxproc", "pgid")
Results = dict[tuple[str, Setting], str]


def all_jobs(tracks: list[str], only: str) -> list[Job]:
    """The cases whose setting and name match the pattern `only`."""
    settings = [Setting(nodes, array, track) for track in tracks for nodes in (1, 2) for array in (False, True)]
    jobs = [Job(case, setting) for setting in settings for case in CASES]
    wanted = re.compile(only)
    fitting = [job for job in jobs if job.setting.nodes > 1 or not job.case.multi_node_only]
    return [job for job in fitting if wanted.search(f"{job.setting.name} {job.case.name}")]


def run(jobs: list[Job], root: Path, workers: int) -> Results:
    """Run them, several at a time, saying how each ended."""
    results: Results = {}
    with Pool(root) as pool:
        batch = Batch(pool, write_data(root / "data"), workers)
        started = {future: job for job, future in batch.start(jobs).items()}
        try:
            for count, future in enumerate(as_completed(started), 1):
                job = started[future]
                error = future.exception()
                results[job.case.name, job.setting] = said = "FAILED" if error else future.result()
                print(f"[{count:3}/{len(jobs)}] {job.setting.name:20} {job.case.name}: {said}", flush=True)
                if error:
                    _keep(root, job, error)
        finally:
            batch.close()
    return results


def earlier_results(log: Path) -> Results:
    """What an earlier run has printed of its cases, those that failed left out."""
    jobs = {(job.setting.name, job.case.name): job for job in all_jobs(list(TRACKS), "")}
    found: Results = {}
    for line in log.read_text().splitlines():
        match = re.fullmatch(r"\[ *\d+/\d+\] (\S+) +(.+): (ok|\d+ lost)", line)
        if match and (job := jobs.get((match[1], match[2]))):
            found[job.case.name, job.setting] = match[3]
    return found


def _keep(root: Path, job: Job, error: BaseException) -> None:
    file = root / f"FAILED-{job.setting.name}-{re.sub(r'[^a-zA-Z0-9]+', '-', job.case.name)}.txt"
    file.write_text(f"{type(error).__name__}: {error}\n")
    print(f"          {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}\n          see {file}")


def table(results: Results, new: int, seconds: float) -> str:
    """The page. `new` cases have taken `seconds`; the others are of an earlier run."""
    settings = sorted({setting for _, setting in results}, key=lambda each: (each.proctrack, each.nodes, each.array))
    heads = [f"{each.proctrack}, {each.nodes}{' array' if each.array else ''}" for each in settings]
    rows = [["interruption", *heads], ["---"] * (len(heads) + 1)]
    names = [case.name for case in CASES if any(case.name == name for name, _ in results)]
    rows += [[name, *(results.get((name, setting), "-") for setting in settings)] for name in names]
    failed = sum(result == "FAILED" for result in results.values())
    facts = {
        "command": "make slurm-matrix",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "took": f"{new} cases {seconds / 60:.0f} minutes on {os.cpu_count()} cores" + EARLIER * (new < len(results)),
        "versions": ", ".join([_slurm_version(), *_versions(), f"Python {platform.python_version()}"]),
        "cases": f"{len(results)}, of which {failed} failed",
    }
    lines = [INTRODUCTION.format(steps=STEPS), *(f"- {name}: {value}" for name, value in facts.items()), ""]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows), ""])


EARLIER = "; the others are of an earlier run, before what had failed in it was mended"
INTRODUCTION = """# Interrupted runs against uninterrupted ones, on a real Slurm

Each cell is a run of {steps} steps, submitted by `tmrc-submit` (or as a task of an array) to a private Slurm cluster,
interrupted once, and left to come back by itself; only after a plain `scancel` a person resumes it. It is compared with
a run that nothing interrupted: losses, validation losses, gradient norms, learning rates and tokens of every step, and
the last checkpoint's weights and optimizer state, byte for byte. Nothing of the job may be left running. Columns are
Slurm's process tracking, the number of nodes, and whether the job is an array's task.

`ok`: the same in every bit, and no step done twice. `2 lost`: the same in every bit, and two steps had to be done
again; where the run had no time to save, checkpoints are 0.4 seconds (two or three steps) apart. `-`: does not apply.
`preempted, user signal` is a cluster with `preempt_send_user_signal`. The code is in tests/slurm/cases.py.
"""


def _versions() -> list[str]:
    return [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "submitit")]


def _slurm_version() -> str:
    return subprocess.run(["slurmctld", "-V"], text=True, capture_output=True, check=True).stdout.strip()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.matrix", description=__doc__)
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="regular expression, as in '^cgroup-2-.* node off'"
    )
    parser.add_argument("--proctrack", default=",".join(TRACKS), help="some of them, with commas between")
    parser.add_argument("--workers", type=int, default=WORKERS, help="cases at a time")
    parser.add_argument(
        "--after", type=Path, metavar="LOG", help="what an earlier run has printed: its cases that went well count"
    )
    given = parser.parse_args()
    if problem := obstacle():
        print(problem, file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    sweep(FOLDER)
    root, began = Path(tempfile.mkdtemp(dir=FOLDER, prefix="matrix-")), time.monotonic()
    jobs = all_jobs(given.proctrack.split(","), given.only)
    results = run(jobs, root, given.workers)
    failed = "FAILED" in results.values() or len(results) < len(jobs)
    earlier = earlier_results(given.after) if given.after else {}
    text = table({**earlier, **results}, len(results), time.monotonic() - began)
    if len({**earlier, **results}) == len(all_jobs(list(TRACKS), "")):
        TABLE.write_text(text)
    print(text)
    if failed:
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
