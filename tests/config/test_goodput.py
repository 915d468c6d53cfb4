"""Where the time of a run goes, from directories made by hand: each second in one bucket."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from tests.config.made import Made, T
from tmrc.config.goodput import QUIET, best_interval, recommended_save_every


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "run")


def nonzero(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in seconds.items() if value > 1e-6}


def preempted_once(made: Made) -> Made:
    """100 s in the queue, killed after 400 s on nodes, requeued for 50 s, and finished after 300 more."""
    made.event("submitted", 0, attempt=1, executor="slurm", job_id="7").began(1, 100)
    made.event("started", 130, attempt=1, step=0)
    made.saved(1, 300, 50, 4.0, step=150, data_wait=5, validation=10, save=4, start=20)
    made.spent(1, 110, 490, 90, start=20, compile=11, step=320, data_wait=8, validation=15, save=4)
    made.ended(1, 500, "failed", kind="killed", action="requeued").event("requeued", 501, attempt=1)
    made.began(2, 550).event("resumed", 570, attempt=2, step=50)
    made.saved(2, 840, 150, 6.0, step=250, data_wait=1, save=6)
    made.spent(2, 560, 845, 150, phase="idle", start=10, step=250, data_wait=1, save=6, idle=1)
    return made.event("finished", 841, attempt=2, step=150).ended(2, 850)


def test_every_second_of_a_run_that_was_killed_once(made: Made) -> None:
    found = preempted_once(made).account()
    first, second = found.attempts
    # 320 - 150 seconds of steps, 8 - 5 of waits and 15 - 10 of validation came after the checkpoint.
    assert nonzero(first.seconds) == {
        "queue": 100, "start": 30, "compile": 11, "data_wait": 5, "step": 150, "validation": 10, "save": 4,
        "lost": 170 + 3 + 5, "idle": 12,
    }  # fmt: skip
    assert nonzero(second.seconds) == {"queue": 50, "start": 20, "data_wait": 1, "step": 250, "save": 6, "idle": 23}
    assert found.wall == 850 and found.allocated == 700
    assert found.goodput == pytest.approx(400 / 700)
    assert (first.interrupted, second.interrupted, found.interruptions) == (True, False, 1)
    assert found.save_every == pytest.approx(best_interval(5.0, 700.0))


def test_a_warned_attempt_that_saved_first_lost_nothing(made: Made) -> None:
    made.event("submitted", 0).began(1, 0).event("started", 5, attempt=1, step=0)
    made.saved(1, 90, 40, 2.0, step=70.5, save=2).event("signal", 88, attempt=1)
    made.spent(1, 1, 92, 40, phase="idle", step=70.5, save=2.5).ended(1, 95, "stopped", action="requeued")
    found = made.account(200)
    assert found.seconds["lost"] == 0 and found.interruptions == 0 and found.save_every is None
    assert found.seconds["queue"] == 105  # it is in the queue until now
    assert made.account(200, place="over").seconds["queue"] == 0  # its job is gone, nobody knows when
    # A damaged checkpoint costs steps, but no other interval between saves would have spared them.
    made.began(2, 200).event("started", 205, attempt=2, step=0)
    found = made.account(300)
    assert found.attempts[0].seconds["lost"] == 70.5 and found.interruptions == 0


def test_what_a_later_attempt_does_not_go_on_from_is_lost_in_all_before(made: Made) -> None:
    made.began(1, 0).event("started", 1, attempt=1, step=0)
    made.saved(1, 50, 10, 1.0, step=40).saved(1, 90, 20, 1.0, step=80)
    made.spent(1, 0, 100, 22, step=88).ended(1, 100, "failed", action="requeued")
    made.began(2, 100).event("resumed", 101, attempt=2, step=20).spent(2, 100, 130, 25, step=20)
    made.ended(2, 130, "failed", action="requeued")
    lost = [one.seconds["lost"] for one in made.account().attempts]
    assert lost == [8, 20]
    made.began(3, 130).event("resumed", 131, attempt=3, step=10)  # step 20 was damaged
    lost = [one.seconds["lost"] for one in made.account().attempts]
    assert lost[:2] == [48, 20]


def test_a_checkpoint_whose_event_was_never_written_counts(made: Made) -> None:
    made.began(1, 0).event("started", 1, attempt=1, step=0).spent(1, 0, 50, 30, phase="save", step=45, save=1)
    made.ended(1, 60, "failed", action="requeued")
    assert made.account().attempts[0].seconds["lost"] == 45
    made.began(2, 60).event("resumed", 61, attempt=2, step=30)
    assert made.account().attempts[0].seconds["lost"] == 0


def test_days_in_which_nobody_wanted_the_run_are_left_out(made: Made) -> None:
    day = 86400.0
    made.event("submitted", 0, attempt=1).began(1, 10).ended(1, 100, "stopped")
    assert made.account(3 * day).wall == 100
    made.event("submitted", 3 * day, attempt=2)
    assert made.account(3 * day + 30).wall == 130
    made.event("cancelled", 3 * day + 50, attempt=1).event("submitted", 5 * day, attempt=2)
    made.began(2, 5 * day + 7).ended(2, 5 * day + 20)
    found = made.account(9 * day)
    assert found.wall == 100 + 50 + 20 and found.seconds["queue"] == 10 + 50 + 7
    assert [one.seconds["queue"] for one in found.attempts] == [10, 57]


def test_a_finished_run_that_is_continued(made: Made) -> None:
    made.event("submitted", 0, attempt=1).began(1, 10).event("started", 12, attempt=1, step=0)
    made.saved(1, 90, 20, 2.0, step=60, save=2).spent(1, 11, 95, 20, phase="idle", start=10, step=60, save=3)
    made.event("finished", 95, attempt=1, step=20).ended(1, 100)
    whole = made.account().attempts[0]
    made.event("submitted", 5000, attempt=2).began(2, 5040, "8").event("resumed", 5050, attempt=2, step=20)
    found = made.account(5100, place="running")
    assert found.attempts[0] == whole and whole.seconds["lost"] == 0
    assert found.wall == 100 + 40 + 60 and found.attempts[1].going_on


def test_a_run_that_finished_without_saving_lost_nothing(made: Made) -> None:
    made.began(1, 0).event("started", 1, attempt=1, step=0).spent(1, 0, 50, 30, step=45)
    made.event("finished", 50, attempt=1, step=30).ended(1, 51)
    assert nonzero(made.account().seconds) == {"step": 45, "idle": 6}


def test_an_attempt_that_goes_on_counts_what_it_is_at(made: Made) -> None:
    made.event("submitted", 0, attempt=1).began(1, 10).spent(1, 15, 40, phase="compile", start=20, compile=5)
    found = made.account(100)
    assert nonzero(found.seconds) == {"queue": 10, "start": 25, "compile": 65} and found.attempts[0].going_on
    assert found.interruptions == 0
    assert not made.account(40 + QUIET + 1).attempts[0].going_on  # it must be dead
    assert made.account(40 + QUIET + 1, place="running").attempts[0].going_on
    assert nonzero(made.account(100, place="over").seconds) == {"queue": 10, "start": 25, "compile": 5}
    assert made.account(100, place="queued").seconds["queue"] == 10 + 60


def test_a_fenced_attempt_counts_until_its_successor_begins(made: Made) -> None:
    """Its node was lost and came back: it went on training for nothing beside the next attempt."""
    made.began(1, 0).event("started", 2, attempt=1, step=0).saved(1, 50, 10, 1.0, step=40, save=1)
    made.spent(1, 0, 300, 60, start=2, step=290, save=1).began(2, 100).event("resumed", 105, attempt=2, step=10)
    made.spent(2, 101, 200, 40, start=4, step=90)
    first = made.account(200, place="running").attempts[0]
    assert first.ended - first.began == 100
    assert nonzero(first.seconds) == {"start": 2, "step": 40, "save": 1, "lost": 57}
    assert first.interrupted


def test_clocks_that_differ(made: Made) -> None:
    made.event("submitted", 50, attempt=1).began(1, 40).spent(1, 30, 95, step=65).ended(1, 90, action="requeued")
    made.began(2, 80).spent(2, 70, 140, start=70).ended(2, 60)
    found = made.account(0)
    assert found.seconds["queue"] == 0 and found.attempts[0].seconds["step"] + found.attempts[0].seconds["lost"] == 40


@pytest.mark.parametrize(("job", "queue"), [("7", 60.0), ("8", 0.0)])
def test_killed_without_a_word_it_is_requeued_only_as_the_same_job(made: Made, job: str, queue: float) -> None:
    made.event("submitted", 0, attempt=1).began(1, 0).spent(1, 0, 40, step=40).began(2, 100, job)
    assert made.account(100, place="running").attempts[1].seconds["queue"] == queue


def test_a_run_of_an_older_version_has_a_start_saves_and_the_rest(made: Made) -> None:
    made.event("submitted", 0).began(1, 10).event("started", 30, attempt=1, step=0)
    made.event("checkpoint", 80, attempt=1, step=5, seconds=3.0).ended(1, 90)
    found = made.account()
    assert nonzero(found.seconds) == {"queue": 10, "start": 20, "save": 3, "idle": 57}
    assert found.goodput is None and found.interruptions == 0


def test_without_a_launcher_and_without_anything(made: Made) -> None:
    assert made.account().wall == 0 and made.account().goodput is None
    made.event("submitted", 10, attempt=1)
    assert made.account(25).seconds["queue"] == 15
    assert made.account(25, place="over").wall == 0
    made.spent(1, 20, 50, 7, start=5, step=20)
    (made.run.attempt(1) / "rank_0.json").write_text("{}")
    os.utime(made.run.attempt(1) / "rank_0.json", (T + 52, T + 52))
    found = made.account()
    assert (found.attempts[0].began, found.attempts[0].ended, found.attempts[0].going_on) == (T + 20, T + 52, False)
    assert found.seconds["queue"] == 10


def test_a_run_without_a_word_of_its_submission_waits_since_it_was_made(made: Made) -> None:
    made.began(1, 100).ended(1, 130)
    assert made.account().wall == 30
    made.run.run_json.write_text('{"created": "1970-01-12T13:46:50+00:00"}')  # T + 10
    assert made.account().seconds["queue"] == 90


def test_a_run_that_is_cancelled_where_it_waits_waits_no_more(made: Made) -> None:
    made.event("submitted", 0, attempt=1)
    made.run.cancel.write_text(json.dumps({"time": T + 40}))
    assert made.account(5000).wall == 40


def test_the_interval_is_the_best_of_dalys_own_model() -> None:
    """Expected wall time of a second of work with failures at random, as Daly (2006) has it, but for the restart."""

    def wall(interval: float, cost: float, between: float) -> float:
        return between / interval * math.expm1((interval + cost) / between)

    for cost, between in ((1.0, 10_000.0), (30.0, 4000.0), (60.0, 600.0), (100.0, 120.0)):
        found = best_interval(cost, between)
        best = min((found * share / 1000 for share in range(200, 5000)), key=lambda one: wall(one, cost, between))
        assert found == pytest.approx(best, rel=0.05)
        assert wall(found, cost, between) <= 1.001 * wall(best, cost, between)
    assert best_interval(5.0, 1e6) == pytest.approx(math.sqrt(2 * 5 * 1e6), rel=0.01)  # Young's, where saves are short
    assert best_interval(100.0, 10.0) == 10.0


@pytest.mark.parametrize(("hours", "minutes"), [(24.0, 117), (6.0, 57), (0.25, 9.1)])
def test_the_intervals_that_daly_published(hours: float, minutes: float) -> None:
    """Figures 3 to 5 of the paper: a save takes five minutes."""
    assert best_interval(5 * 60, hours * 3600) / 60 == pytest.approx(minutes, abs=0.5 if minutes > 10 else 0.05)


def test_runs_of_a_sweep_are_counted_together(tmp_path: Path, made: Made) -> None:
    calm = Made(tmp_path / "calm")
    calm.event("submitted", 0).began(1, 0).event("started", 5, attempt=1, step=0)
    calm.saved(1, 3000, 9, 20.0, step=2000).ended(1, 4300)
    accounts = [calm.account(), preempted_once(made).account()]
    assert accounts[0].save_every is None
    assert recommended_save_every(accounts) == pytest.approx(best_interval(10.0, 5000.0))
    assert recommended_save_every([]) is None


@pytest.mark.parametrize(("stall", "expected"), [(2.0, best_interval(2.0, 1000.0)), (1e-3, 10 * 4.0)])
def test_what_is_written_beside_training_costs_nothing_but_rest_for_the_disk(
    made: Made, stall: float, expected: float
) -> None:
    made.began(1, 0).event("started", 1, attempt=1, step=0)
    made.event("checkpoint", 50, attempt=1, step=10, seconds=4.0, stall=stall, spent={"step": 40, "save": stall})
    made.spent(1, 0, 100, 22, step=88).ended(1, 1000, "failed", action="requeued")
    found = made.account()
    assert (found.saves, found.save_seconds, found.stall_seconds) == (1, 4.0, stall)
    assert found.save_every == pytest.approx(expected)


def test_a_checkpoint_without_an_event_after_which_training_went_on(made: Made) -> None:
    """Killed between the checkpoint of step 30 and its event: of 50 steps in 100 seconds, 20 are lost."""
    made.began(1, 0).event("started", 1, attempt=1, step=0).spent(1, 0, 120, 50, step=100)
    made.ended(1, 120, "failed", action="requeued")
    made.began(2, 120).event("resumed", 121, attempt=2, step=30)
    assert made.account().attempts[0].seconds["lost"] == pytest.approx(40)
