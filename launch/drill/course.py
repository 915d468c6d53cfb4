"""The course of the reference: how long what takes in it, which is what moments are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.attempts import last_attempt
from launch.facts import number_of, read_attempt
from tmrc.config.errors import UserError, shown
from tmrc.config.rundir import RunDir, read_jsonl

LARGEST = 1e15  # of seconds and of steps


@dataclass(frozen=True)
class Course:
    """An uninterrupted run. Times are seconds.

    `start` is from its beginning to the first step, `end` from the last step on, `save` the duration of a checkpoint.
    """

    wall: float
    start: float
    end: float
    steps: int
    saves: int
    save: float
    validations: int

    @property
    def training(self) -> float:
        """From the first step to the last."""
        return max(self.wall - self.start - self.end, 0.0)

    @property
    def saves_on_the_way(self) -> int:
        """Checkpoints before the one at the end: what a killed run can go on from."""
        return max(self.saves - 1, 0)


def course_of(run: RunDir) -> Course:
    """The course of a finished run, by its files. Raises UserError when it has not finished, or was interrupted."""
    rows = _rows(run.events)
    said = {row.get("event"): row for row in rows if isinstance(row.get("event"), str)}
    if "finished" not in said:
        raise UserError(f"{run.path}: has not finished, so there is nothing to compare with")
    number = last_attempt(run)
    if number != 1 or "started" not in said:
        raise UserError(f"{run.path}: took {number} attempts; a reference is a run that was not interrupted")
    attempt = read_attempt(run, number)
    started, finished = (_required(run, said[name], "time") for name in ("started", "finished"))
    began = attempt.began or started
    if attempt.executor not in ("", "slurm"):  # a job's way through the queue is not of the run's doing
        began = _number(said.get("submitted", {}), "time") or began
    ended = max(attempt.ended or finished, finished)
    saves = [row for row in rows if row.get("event") == "checkpoint"]
    metrics = _rows(run.metrics)
    times = [_number(row, "time") for row in metrics if "loss" in row]
    took = sorted(_number(row, "seconds") or 0.0 for row in saves)
    return Course(
        wall=max(ended - began, 0.0),  # clocks are set now and then
        start=max(started - began, 0.0),
        end=max(ended - max((time for time in times if time is not None), default=finished), 0.0),
        steps=int(_required(run, said["finished"], "step")),
        saves=len(saves),
        save=took[len(took) // 2] if took else 0.0,
        validations=sum("val_loss" in row for row in metrics),
    )


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        return read_jsonl(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None


def _required(run: RunDir, row: dict[str, Any], key: str) -> float:
    """A number in an event. Raises UserError where there is none."""
    value = _number(row, key)
    if value is None or value < 0:
        raise UserError(f"{run.events}: event {shown(str(row.get('event')))}: {key} is no number that can be meant")
    return value


def _number(row: dict[str, Any], key: str) -> float | None:
    """A number that can be meant; None for anything else."""
    value = number_of(row, key)
    return value if value is not None and abs(value) < LARGEST else None  # which NaN is not
