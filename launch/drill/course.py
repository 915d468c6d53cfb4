"""The course of the reference: how long what takes in it, which is what moments are drawn from."""

from __future__ import annotations

from dataclasses import dataclass

from launch.attempts import last_attempt, read_ending, read_owner
from tmrc.config.errors import UserError
from tmrc.config.rundir import RunDir, read_jsonl


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
    rows = read_jsonl(run.events)
    said = {row.get("event"): row for row in rows}
    if "finished" not in said:
        raise UserError(f"{run.path}: has not finished, so there is nothing to compare with")
    number = last_attempt(run)
    if number != 1 or "started" not in said:
        raise UserError(f"{run.path}: took {number} attempts; a reference is a run that was not interrupted")
    owner, ending = read_owner(run, number), read_ending(run, number)
    started, finished = float(said["started"]["time"]), float(said["finished"]["time"])
    began = owner.began if owner else started
    if owner and owner.executor != "slurm":  # its way through the queue is not of the run's doing
        began = float(said.get("submitted", {"time": began})["time"])
    ended = max(ending.ended if ending else finished, finished)
    saves = [row for row in rows if row.get("event") == "checkpoint"]
    metrics = read_jsonl(run.metrics)
    steps = [float(row["time"]) for row in metrics if "loss" in row and "time" in row]
    took = sorted(float(row.get("seconds", 0.0)) for row in saves)
    return Course(
        wall=ended - began,
        start=started - began,
        end=ended - max(steps, default=finished),
        steps=int(said["finished"]["step"]),
        saves=len(saves),
        save=took[len(took) // 2] if took else 0.0,
        validations=sum("val_loss" in row for row in metrics),
    )
