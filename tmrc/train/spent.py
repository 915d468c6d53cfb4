"""Where the time of an attempt goes: rank 0 adds it up, phase by phase, and leaves the sums in attempts/<n>/spent.json.

The file is replaced about once a second and around what is long, so a process that is killed loses a second of it.
It is bookkeeping: what goes wrong with it never reaches training.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from tmrc.config.goodput import MEASURED

EVERY = 1.0  # seconds between writes
ENDING = "idle"  # the bucket of what follows training
# Phase (a beat of tmrc.train.pulse) -> bucket; None: that of the phase before it.
BUCKET_OF: dict[str, str | None] = {
    "reading the configuration": "start",
    "joining the other ranks": "start",
    "reading the data set's layout": "start",
    "shutting out earlier attempts": "start",
    "verifying the newest checkpoint": "start",
    "comparing with the checkpoint": "start",
    "comparing the data": "start",
    "building the model": "start",
    "comparing the models": "start",
    "compiling": "compile",
    "warming up": "compile",
    "restoring the checkpoint": "start",
    "sharing the checkpoint": "start",
    "preparing the run directory": "start",
    "starting to train": "start",
    "reading data": "data_wait",
    "forward and backward": "step",
    "reducing the gradients": "step",
    "updating the weights": "step",
    "validating": "validation",
    "adding up the validation": "validation",
    "writing a checkpoint": "save",
    "waiting for the checkpoint": "save",
    "ending": ENDING,
    # At the start, after a step and in a validation. It also waits for the GPU, so that what follows begins at rest.
    "agreeing with the other ranks": None,
}
_TOLD_AT_ONCE = {"compile", "save", ENDING}  # each of them is long, or the last


class Spent:
    """The seconds of one attempt by bucket, kept in `file`. Time before the first phase is start."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seconds = dict.fromkeys((*MEASURED, ENDING), 0.0)
        self._bucket = "start"
        self._step = 0
        self._began = time.time()
        self._since = self._written = self._clock = time.perf_counter()

    def begin(self, phase: str, step: int) -> None:
        """Count the time until now for what went on, and from now on for `phase`, which follows `step` steps."""
        now = self._count()
        before, self._step = self._bucket, step
        self._bucket = BUCKET_OF.get(phase) or before
        changed = self._bucket != before and not _TOLD_AT_ONCE.isdisjoint((self._bucket, before))
        if changed or now - self._written >= EVERY:
            self._write(now)

    def so_far(self) -> dict[str, float]:
        """The seconds until now by bucket, to a microsecond."""
        self._count()
        return {name: round(seconds, 6) for name, seconds in self._seconds.items()}

    def close(self) -> None:
        """Leave the sums as they are now."""
        self._write(self._count())

    def _count(self) -> float:
        """Add what has passed to the bucket of what goes on; returns the clock."""
        now = time.perf_counter()
        self._seconds[self._bucket] += now - self._since
        self._since = now
        return now

    def _write(self, now: float) -> None:
        self._written = now
        values = {
            "began": self._began,
            "at": self._began + now - self._clock,  # by the clock that measures: the wall's may be set
            "phase": self._bucket,
            "step": self._step,
            "seconds": self.so_far(),
        }
        temporary = self._file.with_name(f".{self._file.name}")
        with contextlib.suppress(OSError):  # a full disk; or the attempt's directory is not there yet
            temporary.write_text(json.dumps(values) + "\n", "utf8")
            temporary.replace(self._file)
