"""Where checkpoints are and what they are made of. No torch."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmrc.config.rundir import RunDir

FILES = ("model.safetensors", "optimizer.safetensors", "trainer.json")
TOKENIZER = "the data's tokenizer"  # noted beside the keys of the configuration
_ATTEMPT = re.compile(r"\.attempt_([0-9]{1,9})")


@dataclass(frozen=True)
class TrainerState:
    """What a run knows beside its tensors. Randomness and data order are functions of (seed, step): not stored."""

    step: int  # optimizer steps done
    sequences: int  # sequences consumed
    micro_batch_size: int
    world_size: int
    threads: int  # CPU threads a process: sums depend on it
    torch_version: str
    data_fingerprint: str
    validation_due: bool = False  # the validation that belongs to this step has not been run
    scaler: dict[str, float] = dataclasses.field(default_factory=dict)  # of float16's loss scaler
    config: dict[str, Any] = dataclasses.field(default_factory=dict)  # key -> value of what decides what is computed
    ledger: str = ""  # the ledger's chain value after this step, hexadecimal; empty before there were ledgers


def begun_attempts(run: RunDir) -> dict[int, Path]:
    """Number -> own directory of the attempts that have begun and have not been shut out by a later one (see fence)."""
    if not run.checkpoints.is_dir():
        return {}
    return {int(match[1]): path for path in run.checkpoints.iterdir() if (match := _ATTEMPT.fullmatch(path.name))}
