"""`python -m launch.sweep` with the trainer that can be held: `python -m tests.slurm.search ARGUMENTS`."""

from __future__ import annotations

import sys

from launch.sweep import run
from tests.slurm.submit import TRAINER

if __name__ == "__main__":
    run(sys.argv[1:], TRAINER)
