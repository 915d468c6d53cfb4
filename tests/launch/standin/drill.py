"""`tmrc drill` whose runs use the stand-in trainer: `python -m tests.launch.standin.drill ARGS`."""

from __future__ import annotations

from launch.cli.drill import drill
from launch.cli.run import run_command

if __name__ == "__main__":
    run_command(drill, "tmrc drill", {"submit": "tests.launch.standin.submit"})
