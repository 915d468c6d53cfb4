"""`python -m launch.sweep` with the stand-in trainer: `python -m tests.launch.standin.search ARGS`."""

from __future__ import annotations

import sys

from launch.sweep import run

if __name__ == "__main__":
    run(sys.argv[1:], "tests.launch.standin.train")
