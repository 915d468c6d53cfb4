"""What rank 0 does for all: rows of metrics, events and checkpoints of one attempt."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from tmrc.config.rundir import append_event
from tmrc.train.checkpoint import Files, prune, save_checkpoint, set_aside
from tmrc.train.failures import NO_SPACE, disk_error, errno_of, warn
from tmrc.train.fence import Fence
from tmrc.train.ledger import Sums
from tmrc.train.ledger_file import LedgerFile
from tmrc.train.metrics import MetricsFile
from tmrc.train.saved import TrainerState
from tmrc.train.snapshot import Snapshot
from tmrc.train.spent import Spent

SAY_EVERY = 60.0  # seconds between lines in the log


@dataclass(frozen=True)
class Saving:
    """A checkpoint of `step` that is being written beside training, since `clock` (monotonic seconds).

    `stall` is how long training was held up for the copy, `spent` what the attempt had spent by then.
    """

    step: int
    written: Future[tuple[Path, float]]
    clock: float
    stall: float
    spent: Mapping[str, float] | None


class Keeper:
    """Writes for one attempt. Raises SupersededError once a later attempt has begun.

    Checkpoints are written beside training, by `writer` (a thread), from a copy of the state. All else is of the thread
    that trains. `saved_step` is the step of the last checkpoint that this attempt has made durable.
    """

    def __init__(
        self,
        fence: Fence,
        metrics: MetricsFile,
        ledger: LedgerFile,
        keep: int,
        device: torch.device,
        spent: Spent | None = None,
        writer: Executor | None = None,
    ) -> None:
        self.saved_step = -1
        self._snapshot = Snapshot(device)
        self._writer = writer or ThreadPoolExecutor(1, "checkpoint")
        self._prepared: Future[None] | None = None
        self._saving: Saving | None = None
        self._fence = fence
        self._spent = spent
        self._metrics = metrics
        self._ledger = ledger
        self._keep = keep
        self._said = -SAY_EVERY
        self._untold: list[tuple[str, dict[str, Any]]] = []  # events that the disk had no room for
        self._begun = False
        self._full_since: float | None = None  # when the first of the saves began that found no room
        self._patient_since = -math.inf

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

    def begin_save(self, files: Files, state: TrainerState) -> None:
        """Copy the tensors and begin to write a checkpoint of them beside training. `settle` tells how it ended.

        The tensors must not change before `protect`. The save before this one must have been settled: there is one
        copy of the state and one writer.
        """
        assert self._saving is None
        self._fence.require()
        if self._prepared is not None:
            self._prepared.result()
        clock, began = time.monotonic(), time.perf_counter()
        copies = self._snapshot.take(files)
        spent = self._spent.so_far() if self._spent else None  # what comes after this moment can be lost
        written = self._writer.submit(self._write_checkpoint, copies, state)
        self._saving = Saving(state.step, written, clock, time.perf_counter() - began, spent)

    def protect(self) -> None:
        """To be called before the weights change: what is still being copied is copied first."""
        self._snapshot.protect()

    def prepare(self, files: Files) -> None:
        """Make the room for copies, beside training, before the first of them is needed."""
        self._prepared = self._writer.submit(self._snapshot.prepare, files)

    def settle(self, patience: float, wait: bool = False) -> bool:
        """Look after the save under way, if there is one: leave its event when the checkpoint is durable.

        False when there was no room for it, and that has been so for less than `patience` seconds. Raises DiskError,
        and whatever else went wrong beside training. Does not wait unless told to.
        """
        saving = self._saving
        if saving is None or not (wait or saving.written.done()):
            return True
        began = time.perf_counter()
        try:
            path, seconds = saving.written.result()
        except (OSError, SafetensorError) as error:
            self._bear(error, saving.step, saving.clock, patience)
            return False
        finally:
            self._saving = None
        self._full_since = None
        self.saved_step = saving.step
        self._fence.require()  # it may have been held up anywhere above
        stall = saving.stall + time.perf_counter() - began
        spent = {"spent": saving.spent} if saving.spent is not None else {}
        self.event("checkpoint", saving.step, path=path.name, seconds=seconds, stall=stall, **spent)
        return True

    def be_patient_again(self) -> None:
        """However long the disk has been full: patience with it counts from now on."""
        self._patient_since = time.monotonic()

    def save(self, files: Files, state: TrainerState, patience: float) -> bool:
        """Write a checkpoint of this state unless there is one, and wait until it is durable. As `settle` otherwise."""
        if not self.settle(patience, wait=True):
            return False
        if self.saved_step == state.step:
            return True
        self.begin_save(files, state)
        return self.settle(patience, wait=True)

    def _write_checkpoint(self, files: Files, state: TrainerState) -> tuple[Path, float]:
        """Runs beside training. Writes a durable checkpoint and deletes old ones; returns it and how long it took.

        Earlier checkpoints are intact whatever happens.
        """
        began = time.perf_counter()
        self._snapshot.wait()
        self._metrics.sync()  # a row that the checkpoint counts as written must not be lost
        self._ledger.sync()
        path = save_checkpoint(self._fence, files, state)
        set_aside(self._fence, after=state.step)  # of an earlier attempt and seen late: the metrics do not lead to it
        prune(self._fence, self._keep)
        return path, time.perf_counter() - began

    def _bear(self, error: Exception, step: int, began: float, patience: float) -> None:
        """Say that a save that began at `began` found no room. Raises DiskError when that cannot go on."""
        self._full_since = max(began if self._full_since is None else self._full_since, self._patient_since)
        left = self._full_since + patience - time.monotonic()
        what = f"the checkpoint of step {step} cannot be written"
        if errno_of(error) not in NO_SPACE or left <= 0:
            raise disk_error(f"{what}, earlier ones are intact", error) from None
        cause = f"{what} ({os.strerror(errno_of(error))})"
        warn(f"{cause}: tries again now and then; the run ends in {left:,.0f} seconds if there is still no room")
        self.event("save_failed", step, cause=cause)

    def close(self) -> None:
        """Make the last rows durable, after the checkpoint under way."""
        if self._saving is not None:  # training has failed, and that is what is told: but the checkpoint may be good
            with contextlib.suppress(Exception):
                self.settle(patience=0.0, wait=True)
        self._writer.shutdown()
        with contextlib.suppress(OSError):
            self._tell()
        try:
            self._ledger.close()
        finally:
            self._metrics.close()
