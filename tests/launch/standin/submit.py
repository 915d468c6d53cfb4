"""`tmrc-submit` with the stand-in trainer: `python -m tests.launch.standin.submit ARGS`."""

from __future__ import annotations

from launch.cli.submit import main

if __name__ == "__main__":
    main("tests.launch.standin.train")
