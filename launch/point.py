"""One point of a sweep on this machine: `python -m launch.point RUN_DIR TRAINER`, started by launch.multirun_local."""

from __future__ import annotations

from launch.signals import hold_back

if __name__ == "__main__":
    hold_back()  # as whoever starts us does: run_local lets through what has come once it listens

import sys
from collections.abc import Sequence
from pathlib import Path

from launch.gpus import local_resources
from launch.local import run_local
from launch.processes import end_with_parent
from tmrc.config.errors import UserError
from tmrc.config.load import load_config
from tmrc.config.rundir import RunDir


def main(arguments: Sequence[str]) -> int:
    """Run one attempt in the foreground; returns the run's exit code."""
    end_with_parent()  # whoever ends the sweep, however: the point saves and stops
    run = RunDir(Path(arguments[0]))
    try:
        result = run_local(run, local_resources(load_config(run.config)), arguments[1])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    if result.ending.status == "failed":
        print(f"error: {result.ending.message}", file=sys.stderr, flush=True)
    return result.ending.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
