"""What rank 0 does for all: rows of metrics, events and checkpoints of one attempt."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from tmrc.config.rundir import append_event
from tmrc.train.checkpoint import prune, save_checkpoint, set_aside
from tmrc.train.failures import NO_SPACE, disk_error, errno_of, warn
from tmrc.train.fence import Fence
from tmrc.train.ledger import Sums
from tmrc.train.ledger_file import LedgerFile
from tmrc.train.metrics import MetricsFile
from tmrc.train.saved import TrainerState
from tmrc.train.spent import Spent

SAY_EVERY = 60.0  # seconds between lines in the log


class Keeper:
    """Writes for one attempt. Raises SupersededError once a later attempt has begun."""

    def __init__(
        self, fence: Fence, metrics: MetricsFile, ledger: LedgerFile, keep: int, spent: Spent | None = None
    ) -> None:
        self._fence = fence
        self._spent = spent
        self._metrics = metrics
        self._ledger = ledger
        self._keep = keep
        self._said = -SAY_EVERY
        self._untold: list[tuple[str, dict[str, Any]]] = []  # events that the disk had no room for
        self._begun = False
        self._full_since: float | None = None  # when the first of the saves began that found no room

    def write(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl, and now and then a line to the log."""
        self._fence.require()
        self._ledger.flush()  # before the row: of every step that has one there is a record
        self._metrics.write(row)
        if "loss" in row and time.monotonic() - self._said >= SAY_EVERY:
            self._said = time.monotonic()
            self.say(f"step {row['step']:,}  loss {row['loss']:.4f}  {row['tokens_per_s']:,.0f} tokens/s")

    def record(self, step: int, sums: Sums) -> None:
        """Append the record of a step to the ledger."""
        self._ledger.add(step, sums)

    @property
    def ledger_head(self) -> str:
        """The ledger's chain value after its last record, hexadecimal."""
        return self._ledger.head

    def say(self, line: str) -> None:
        """A line in the log. A log that cannot be written to is no reason to stop."""
        with contextlib.suppress(OSError):
            print(line, flush=True)

    def event(self, event: str, step: int, **fields: Any) -> None:
        """Append a row to events.jsonl; when the disk has become full, with a later one."""
        self._untold.append((event, {"time": time.time(), "attempt": self._fence.attempt, "step": step, **fields}))
        try:
            self._tell()
        except OSError as error:
            if error.errno not in NO_SPACE or not self._begun:
                raise
        self._begun = True

    def _tell(self) -> None:
        while self._untold:
            event, fields = self._untold[0]
            append_event(self._fence.run, event, **fields)
            del self._untold[0]

    @property
    def attempt(self) -> int:
        """The number of this attempt."""
        return self._fence.attempt

    def require(self) -> None:
        """Raise unless this attempt may still write."""
        self._fence.require()

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainerState, patience: float) -> bool:
        """Write a checkpoint and delete old ones. Earlier checkpoints are intact whatever happens.

        False when there is no room for it, and that has been so for less than `patience` seconds. Raises DiskError.
        """
        clock, began = time.monotonic(), time.perf_counter()
        try:
            path = self._write_checkpoint(model, optimizer, state)
        except (OSError, SafetensorError) as error:
            self._bear(error, state.step, clock, patience)
            return False
        self._full_since = None
        self._fence.require()  # it may have been held up anywhere above
        seconds = time.perf_counter() - began
        spent = {"spent": self._spent.so_far()} if self._spent else {}  # what comes after it can be lost
        self.event("checkpoint", state.step, path=path.name, seconds=seconds, **spent)
        return True

    def _write_checkpoint(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainerState) -> Path:
        self._metrics.sync()  # a row that the checkpoint counts as written must not be lost
        self._ledger.sync()
        path = save_checkpoint(self._fence, model, optimizer, state)
        set_aside(self._fence, after=state.step)  # of an earlier attempt and seen late: the metrics do not lead to it
        prune(self._fence, self._keep)
        return path

    def _bear(self, error: Exception, step: int, began: float, patience: float) -> None:
        """Say that a save that began at `began` found no room. Raises DiskError when that cannot go on."""
        self._full_since = began if self._full_since is None else self._full_since
        left = self._full_since + patience - time.monotonic()
        what = f"the checkpoint of step {step} cannot be written"
        if errno_of(error) not in NO_SPACE or left <= 0:
            raise disk_error(f"{what}, earlier ones are intact", error) from None
        cause = f"{what} ({os.strerror(errno_of(error))})"
        warn(f"{cause}: tries again now and then; the run ends in {left:,.0f} seconds if there is still no room")
        self.event("save_failed", step, cause=cause)

    def close(self) -> None:
        """Make the last rows durable."""
        with contextlib.suppress(OSError):
            self._tell()
        try:
            self._ledger.close()
        finally:
            self._metrics.close()
