"""What rank 0 does for all: rows of metrics, events and checkpoints of one attempt."""

from __future__ import annotations

import time
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from tmrc.config.rundir import append_event
from tmrc.train.checkpoint import TrainerState, prune, save_checkpoint
from tmrc.train.failures import DiskError
from tmrc.train.fence import Fence
from tmrc.train.metrics import MetricsFile


class Keeper:
    """Writes for one attempt. Raises SupersededError once a later attempt has begun."""

    def __init__(self, fence: Fence, metrics: MetricsFile, keep: int) -> None:
        self._fence = fence
        self._metrics = metrics
        self._keep = keep

    def write(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl."""
        self._fence.require()
        self._metrics.write(row)

    def event(self, event: str, step: int, **fields: Any) -> None:
        """Append a row to events.jsonl."""
        append_event(self._fence.run, event, attempt=self._fence.attempt, step=step, **fields)

    def require(self) -> None:
        """Raise unless this attempt may still write."""
        self._fence.require()

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainerState) -> None:
        """Write a checkpoint and delete old ones. Raises DiskError; earlier checkpoints are then intact."""
        began = time.perf_counter()
        try:
            self._metrics.sync()  # a row that the checkpoint counts as written must not be lost
            path = save_checkpoint(self._fence, model, optimizer, state)
            prune(self._fence, self._keep)
        except (OSError, SafetensorError) as error:
            raise DiskError(
                f"the checkpoint of step {state.step} cannot be written ({error}); earlier ones are intact"
            ) from None
        self.event("checkpoint", state.step, path=path.name, seconds=time.perf_counter() - began)

    def close(self) -> None:
        """Make the last rows durable."""
        self._metrics.close()
