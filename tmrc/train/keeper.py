"""What rank 0 does for all: rows of metrics, events and checkpoints of one attempt."""

from __future__ import annotations

import contextlib
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
from tmrc.train.spent import Spent

SAY_EVERY = 60.0  # seconds between lines in the log


class Keeper:
    """Writes for one attempt. Raises SupersededError once a later attempt has begun."""

    def __init__(self, fence: Fence, metrics: MetricsFile, keep: int, spent: Spent | None = None) -> None:
        self._fence = fence
        self._spent = spent
        self._metrics = metrics
        self._keep = keep
        self._said = -SAY_EVERY

    def write(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl, and now and then a line to the log."""
        self._fence.require()
        self._metrics.write(row)
        if "loss" in row and time.monotonic() - self._said >= SAY_EVERY:
            self._said = time.monotonic()
            self.say(f"step {row['step']:,}  loss {row['loss']:.4f}  {row['tokens_per_s']:,.0f} tokens/s")

    def say(self, line: str) -> None:
        """A line in the log. A log that cannot be written to is no reason to stop."""
        with contextlib.suppress(OSError):
            print(line, flush=True)

    def event(self, event: str, step: int, **fields: Any) -> None:
        """Append a row to events.jsonl."""
        append_event(self._fence.run, event, attempt=self._fence.attempt, step=step, **fields)

    @property
    def attempt(self) -> int:
        """The number of this attempt."""
        return self._fence.attempt

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
        self._fence.require()  # it may have been held up anywhere above
        seconds = time.perf_counter() - began
        spent = {"spent": self._spent.so_far()} if self._spent else {}  # what comes after it can be lost
        self.event("checkpoint", state.step, path=path.name, seconds=seconds, **spent)

    def close(self) -> None:
        """Make the last rows durable."""
        self._metrics.close()
