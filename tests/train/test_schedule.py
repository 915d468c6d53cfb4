"""Learning rates against their definitions."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tmrc.config.errors import ConfigError
from tmrc.config.schema import TrainingConfig
from tmrc.train.schedule import SCHEDULES, learning_rate

BASE = TrainingConfig(warmup_steps=10, min_lr_ratio=0.1, decay_ratio=0.25)


def rates(name: str, total: int = 110) -> list[float]:
    training = dataclasses.replace(BASE, scheduler=name)
    return [learning_rate(step, total, 2.0, training) for step in range(total)]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
def test_warm_up_rises_in_a_line_and_never_starts_at_zero(name: str) -> None:
    assert rates(name)[:10] == pytest.approx([2.0 * (step + 1) / 11 for step in range(10)])
    assert rates(name)[10] == 2.0


def test_shapes_after_the_warm_up() -> None:
    assert set(rates("constant")[10:]) == {2.0}
    assert rates("linear")[60] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates("cosine")[35] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.25))))
    assert set(rates("wsd")[10:86]) == {2.0}
    assert rates("wsd")[98] == pytest.approx(2.0 * (0.1 + 0.9 * 12 / 25))


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
def test_decay_ends_near_the_lowest_rate(name: str) -> None:
    assert 0.2 <= rates(name)[-1] <= 0.3
    assert all(later <= earlier for earlier, later in zip(rates(name)[10:], rates(name)[11:], strict=False))


def test_no_warm_up_starts_at_the_peak() -> None:
    assert learning_rate(0, 10, 0.5, TrainingConfig()) == 0.5


def test_an_unknown_schedule_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="constant, cosine, linear, wsd"):
        SCHEDULES.get("exponential")
