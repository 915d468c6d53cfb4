"""The wall clock is set, back or forward by hours, in the middle of a run: nothing that matters goes by it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from launch.cli.main import tmrc
from tests.train.conftest import NewTrial, Trial
from tests.train.test_stop import EVERY_STEP, ask, before
from tmrc.config.goodput import account

Train = Callable[..., Trial]
HOUR = 3600.0
SetClock = Callable[[float], None]


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """`set_clock(seconds)`: from now on the wall clock is that much ahead of the true time, or behind it."""
    true, ahead = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: true() + ahead[0])

    def change(seconds: float) -> None:
        ahead[0] = seconds

    return change


def shown(trial: Trial, *command: str) -> Any:
    done = CliRunner().invoke(tmrc, [command[0], str(trial.run.path), *command[1:]], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in command else done.output


def numbers(value: Any) -> list[float]:
    """Every number in an answer."""
    if isinstance(value, dict | list):
        return [number for one in (value.values() if isinstance(value, dict) else value) for number in numbers(one)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.parametrize(("first", "second"), [(-5 * HOUR, 0.0), (7 * HOUR, 0.0), (5 * HOUR, -30 * HOUR)])
def test_a_clock_that_is_set_changes_nothing_that_is_learnt_and_no_sum_of_times(
    train: Train, new_trial: NewTrial, set_clock: SetClock, first: float, second: float
) -> None:
    whole, cut = train(EVERY_STEP), new_trial(EVERY_STEP)
    with before("loop", "Loop._train_step", 2, lambda: set_clock(first)), before("loop", "Loop._train_step", 3, ask):
        train(again=cut, expect=75)
    for command in ("status", "report"):
        assert shown(cut, command)
    with before("loop", "Loop._train_step", 1, lambda: set_clock(second)):
        train(again=cut)
    assert cut.exact_rows == whole.exact_rows and cut.tensor_files() == whole.tensor_files()
    assert all(0 < row["tokens_per_s"] < 1e9 and 0 <= row["data_wait"] <= 1 for row in cut.rows if "loss" in row)
    spent = account(cut.run)
    assert all(seconds >= 0 for seconds in spent.seconds.values()), spent.seconds
    assert sum(spent.seconds.values()) == pytest.approx(spent.wall, abs=0.01)
    assert spent.seconds["step"] < HOUR / 60 and spent.seconds["save"] < HOUR / 60
    status = shown(cut, "status", "--json")
    assert all(math.isfinite(number) and number >= 0 for number in numbers(status)), status
    assert (status["state"], status["step"]) == ("finished", 6)
    for command in (("report", "--json"), ("report",), ("status",)):
        assert shown(cut, *command)


def test_a_clock_that_is_set_makes_no_save_due_and_none_overdue(
    train: Train, new_trial: NewTrial, set_clock: SetClock
) -> None:
    trial = new_trial("training.save_every=3600")
    with before("loop", "Loop._train_step", 3, lambda: set_clock(9 * HOUR)):
        train(again=trial)
    assert [event["step"] for event in trial.events("checkpoint")] == [6]
    trial = new_trial(EVERY_STEP)
    set_clock(0.0)
    with before("loop", "Loop._train_step", 3, lambda: set_clock(-9 * HOUR)):
        train(again=trial)
    assert [event["step"] for event in trial.events("checkpoint")] == [1, 2, 3, 4, 5, 6]


def test_a_clock_that_is_set_looks_like_no_hang(tmp_path: Path, set_clock: SetClock) -> None:
    from launch.hang import HangWatch, positions
    from tmrc.config.heartbeat import HeartbeatFile, heartbeat_file

    beats = HeartbeatFile(heartbeat_file(tmp_path, 0))
    watch = HangWatch(tmp_path, 60.0)
    beats.beat("reading data", 3)
    for ahead in (9 * HOUR, -9 * HOUR):
        set_clock(ahead)
        assert not watch.hung()
        assert 0 <= positions(watch.beats(), {})["0"]["still"] < 60


def test_a_job_that_was_suspended_whole_does_not_look_hung_when_it_wakes_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`scontrol suspend` stops the ranks and their watchdog together; which of them wakes up first must not matter."""
    from launch.hang import HangWatch
    from tmrc.config.heartbeat import HeartbeatFile, heartbeat_file

    true, later = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: true() + later[0])
    watch = HangWatch(tmp_path, 600.0)
    HeartbeatFile(heartbeat_file(tmp_path, 0)).beat("reading data", 3)
    assert not watch.hung()
    later[0] = 3 * HOUR  # the ranks have not beaten since
    assert not watch.hung()
    for _ in range(39):
        later[0] += 15
        assert not watch.hung()
    later[0] += 16  # they have had their time, and still do nothing
    assert watch.hung()
