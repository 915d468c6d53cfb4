"""`tmrc drill --slurm` on a private cluster: `python -m tests.slurm.drill [KEY=VALUE ... OPTIONS]`.

Brings a cluster up, runs the drill with the options given (30 trials, unless they say otherwise), and stops it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.slurm.cluster import Cluster, sweep
from tests.slurm.conftest import FOLDER
from tests.slurm.install import obstacle

USUAL = [
    "drill", "--slurm", "-p", "gpu", "-G", "0", "-c", "1", "--mem", "2G", "-t", "10", "--parallel", "2",
    "--trials", "30",
]  # fmt: skip


def main(arguments: list[str]) -> int:
    """The exit code of the drill."""
    if problem := obstacle():
        print(problem, file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    sweep(FOLDER)
    root = Path(tempfile.mkdtemp(dir=FOLDER, prefix="drill-"))
    cluster = Cluster(root / "cluster", nodes=4, grace=40, kill_wait=20).up()
    try:
        words = [sys.executable, "-m", "launch.cli.main", "drill", *USUAL, *arguments]
        return subprocess.run(words, env={**os.environ, **cluster.env}).returncode
    except KeyboardInterrupt:  # the drill has heard it, too
        return 130
    finally:
        cluster.down()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
