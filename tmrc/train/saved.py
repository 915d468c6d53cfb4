"""Where checkpoints are and what they are made of. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from tmrc.config.rundir import RunDir

FILES = ("model.safetensors", "optimizer.safetensors", "trainer.json")
# The fields of trainer.json, which tmrc.train.checkpoint.TrainerState describes. The others came later.
REQUIRED_STATE = (
    "step", "sequences", "micro_batch_size", "world_size", "threads", "torch_version", "data_fingerprint",
)  # fmt: skip
STATE_FORM: dict[str, type] = {
    "step": int, "sequences": int, "micro_batch_size": int, "world_size": int, "threads": int, "torch_version": str,
    "data_fingerprint": str, "validation_due": bool, "scaler": dict, "config": dict, "ledger": str,
}  # fmt: skip
TOKENIZER = "the data's tokenizer"  # noted beside the keys of the configuration
_STEP_NAME = re.compile(r"step_([0-9]{8,15})")
_ATTEMPT = re.compile(r"\.attempt_([0-9]{1,9})")


def checkpoint_steps(run: RunDir) -> dict[int, Path]:
    """Step -> directory of all checkpoints of the run, newest first, not verified."""
    if not run.checkpoints.is_dir():
        return {}
    named = {int(match[1]): path for path in run.checkpoints.iterdir() if (match := _STEP_NAME.fullmatch(path.name))}
    return {step: path for step, path in sorted(named.items(), reverse=True) if path.name == checkpoint_name(step)}


def checkpoint_name(step: int) -> str:
    """Name of the directory of the checkpoint of `step`."""
    return f"step_{step:08d}"


def begun_attempts(run: RunDir) -> list[int]:
    """Numbers of the attempts that have begun to write and have not been shut out by a later one (see fence)."""
    try:
        names = [path.name for path in run.checkpoints.iterdir()] if run.checkpoints.is_dir() else []
    except OSError:
        return []
    return [int(match[1]) for name in names if (match := _ATTEMPT.fullmatch(name))]
