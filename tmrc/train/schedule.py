"""Learning-rate schedules: functions of the step alone, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable

from tmrc.config.registry import Registry
from tmrc.config.schema import TrainingConfig

# (progress in [0, 1) after the warm-up, configuration) -> factor of the peak learning rate
Schedule = Callable[[float, TrainingConfig], float]
SCHEDULES: Registry[Schedule] = Registry("scheduler")


@SCHEDULES.register("constant")
def constant(progress: float, training: TrainingConfig) -> float:
    """The peak learning rate throughout."""
    return 1.0


@SCHEDULES.register("linear")
def linear(progress: float, training: TrainingConfig) -> float:
    """A straight line from the peak down to min_lr_ratio of it."""
    return _between(training.min_lr_ratio, 1.0 - progress)


@SCHEDULES.register("cosine")
def cosine(progress: float, training: TrainingConfig) -> float:
    """Half a cosine from the peak down to min_lr_ratio of it (Loshchilov and Hutter 2017, without restarts)."""
    return _between(training.min_lr_ratio, 0.5 * (1.0 + math.cos(math.pi * progress)))


@SCHEDULES.register("wsd")
def warmup_stable_decay(progress: float, training: TrainingConfig) -> float:
    """The peak, then a straight line down over the last decay_ratio of the steps (Hu et al. 2024, MiniCPM)."""
    return _between(training.min_lr_ratio, min(1.0, (1.0 - progress) / training.decay_ratio))


def _between(lowest: float, share: float) -> float:
    return lowest + (1.0 - lowest) * share


def learning_rate(step: int, total_steps: int, peak: float, training: TrainingConfig) -> float:
    """Learning rate of optimizer step `step`, counted from 0, of a run of `total_steps`.

    The warm-up rises linearly and reaches the peak with step `warmup_steps`.
    """
    if step < training.warmup_steps:
        return peak * (step + 1) / (training.warmup_steps + 1)
    progress = (step - training.warmup_steps) / max(1, total_steps - training.warmup_steps)
    return peak * SCHEDULES.get(training.scheduler)(progress, training)
