"""Where checkpoints are and what they are made of. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from tmrc.config.rundir import RunDir

FILES = ("model.safetensors", "optimizer.safetensors", "trainer.json")
_STEP_NAME = re.compile(r"step_([0-9]{8,15})")


def checkpoint_steps(run: RunDir) -> dict[int, Path]:
    """Step -> directory of all checkpoints of the run, newest first, not verified."""
    if not run.checkpoints.is_dir():
        return {}
    named = {int(match[1]): path for path in run.checkpoints.iterdir() if (match := _STEP_NAME.fullmatch(path.name))}
    return {step: path for step, path in sorted(named.items(), reverse=True) if path.name == checkpoint_name(step)}


def checkpoint_name(step: int) -> str:
    """Name of the directory of the checkpoint of `step`."""
    return f"step_{step:08d}"
