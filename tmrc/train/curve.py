"""metrics.jsonl as points of one curve: everything that was logged of a step, once, as soon as no more can come.

wandb takes each step once and in order. The training row and the validation row of a step may be written by two
attempts, with an interruption between them, so a step is held back for as long as its validation may still come.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tmrc.config.rundir import RunDir, read_jsonl
from tmrc.config.schema import TrainingConfig

_APART = ("step", "time")  # what says where a point is, and is no measurement


@dataclass(frozen=True)
class Point:
    """All that was logged of one step, and when (unix time)."""

    step: int
    values: dict[str, Any]
    time: float | None


class Curve:
    """Reads a run's metrics from their beginning, and then what has been added.

    It keeps to the file that it has opened: a later attempt puts another one in its place.
    """

    def __init__(self, path: Path, validated: Callable[[int], bool]) -> None:
        self._path = path
        self._validated = validated  # whether a validation belongs to the step
        self._file: BinaryIO | None = None
        self._cut = b""  # the beginning of a line whose end is not there yet
        self._open: dict[str, Any] | None = None  # the step that more may come for
        self._last = -1  # the last step that has been given out

    def points(self, ended: bool = False) -> list[Point]:
        """The steps that have become complete since the last call. `ended`: nothing will be added any more."""
        found = [point for line in self._lines() for point in self._take(line)]
        return found + (self._complete() if ended else [])

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def _lines(self) -> list[bytes]:
        if self._file is None:
            try:
                self._file = self._path.open("rb")
            except FileNotFoundError:
                return []
        *whole, self._cut = (self._cut + self._file.read()).split(b"\n")
        return whole

    def _take(self, line: bytes) -> list[Point]:
        row = _row(line)
        if row is None or row["step"] <= self._last:
            return []
        complete = self._complete() if self._open and row["step"] > self._open["step"] else []
        self._open = {**(self._open or {}), **row}
        if "val_loss" in self._open or not self._validated(row["step"]):
            complete += self._complete()
        return complete

    def _complete(self) -> list[Point]:
        row, self._open = self._open, None
        if row is None:
            return []
        self._last = row["step"]
        when = row.get("time")
        known = isinstance(when, int | float) and math.isfinite(when)
        return [Point(row["step"], {name: row[name] for name in row if name not in _APART}, when if known else None)]


def validated_steps(run: RunDir, training: TrainingConfig) -> Callable[[int], bool]:
    """Tells whether a validation belongs to a step: every `val_interval` steps, and at the end."""
    totals = [row.get("total_steps") for row in read_jsonl(run.events) if row["event"] in ("started", "resumed")]
    last = totals[-1] if totals else None

    def validated(step: int) -> bool:
        interval = training.val_interval
        return interval > 0 and (step % interval == 0 or last is None or step >= last)

    return validated


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return row if isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**63 else None
