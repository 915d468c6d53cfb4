"""Where a run's time went, as `tmrc status RUN` tells it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.launch.fake_queue import FakeSlurm, HandMade
from tests.launch.helpers import events
from tests.launch.test_status import PENDING, RUNNING, tmrc
from tmrc.config.load import load_config, write_config


def spent(run: HandMade, number: int, seconds: dict[str, float], step: int) -> None:
    """What rank 0 of an attempt that began when `run` was last heard of leaves."""
    began = json.loads((run.path / f"attempts/{number}/owner.json").read_text())["began"]
    content = {"began": began, "at": began + sum(seconds.values()), "phase": "step", "step": step, "seconds": seconds}
    (run.path / f"attempts/{number}/spent.json").write_text(json.dumps(content))


def killed(run: HandMade, save_every: float) -> HandMade:
    """Preempted after 10,000 seconds on its nodes without a warning, with one checkpoint halfway."""
    config = load_config("default", ["datasets.path=data", f"training.save_every={save_every}"])
    write_config(config, run.path / "config.yaml")
    run.clock -= 20_000
    run.submitted("7", attempt=1)
    run.clock += 840
    run.began().trains(1, 0, 1)
    run.event("checkpoint", attempt=1, step=5, seconds=20.0, spent={"step": 4000.0, "save": 20.0})
    spent(run, 1, {"start": 180.0, "step": 9000.0, "save": 20.0, "data_wait": 12.0}, 11)
    run.clock = json.loads((run.path / "attempts/1/owner.json").read_text())["began"] + 9999
    return run.ended(1, "failed", kind="preempted", action="requeued")


def lines(run: HandMade, label: str) -> list[str]:
    return [line for line in tmrc("status", run.path).out.splitlines() if line.startswith(label)]


def test_the_buckets_and_the_advice(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(PENDING)
    killed(run, 3600)
    (line,) = lines(run, "goodput")
    expected = "40.0% of 2h46m on its nodes: step 1h06m, save 20s, lost 1h23m, start 3m00s, idle 13m08s; "
    assert line.split(None, 1)[1].startswith(expected), line
    assert line.endswith("in the queue")
    (advice,) = lines(run, "save_every")
    assert advice.split(None, 1)[1] == (
        "620 seconds would lose less time than 3600: "
        "a save holds training up for 20s, and unsaved steps were lost once in 2h46m on its nodes"
    )
    found = tmrc("status", run.path, "--json").json["goodput"]
    assert found["share"] == pytest.approx(0.4) and found["save_every"] == pytest.approx(620, abs=5)
    assert found["seconds"]["lost"] == 5012.0 and found["attempts"][0]["ended"] is not None


@pytest.mark.parametrize("save_every", [400, 1000])
def test_no_advice_where_another_interval_would_change_little(run: HandMade, save_every: float) -> None:
    assert lines(killed(run, save_every), "goodput") and not lines(run, "save_every")


def test_a_configuration_that_cannot_be_read_is_no_reason_to_fail(run: HandMade) -> None:
    (killed(run, 1).path / "config.yaml").write_text("training: [\n")
    assert lines(run, "goodput") and not lines(run, "save_every")


def test_what_was_never_measured_is_not_told(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(RUNNING)
    run.submitted("7").began().trains()
    assert not lines(run, "goodput")
    found = tmrc("status", run.path, "--json").json["goodput"]
    assert found["share"] is None and found["wall"] > 0 and found["attempts"][0]["ended"] is None


def test_an_attempt_that_goes_on_counts_until_now_only_where_it_runs(slurm: FakeSlurm, run: HandMade) -> None:
    slurm.queue(RUNNING)
    run.submitted("7").began().trains()
    spent(run, 1, {"start": 10.0, "step": 200.0}, 10)
    seconds: dict[str, Any] = tmrc("status", run.path, "--json").json["goodput"]["seconds"]
    assert seconds["step"] > 900  # it began 1000 seconds ago
    slurm.queue()
    seconds = tmrc("status", run.path, "--json").json["goodput"]["seconds"]
    assert seconds["step"] == 0 and seconds["lost"] == 200


def test_an_attempt_that_died_without_a_word_is_accounted_for_by_the_next(run: HandMade, tmp_path: Path) -> None:
    from launch.history import close_unfinished
    from tmrc.config.rundir import RunDir

    run.submitted("7").began(1, None, pid=2**30).trains()
    spent(run, 1, {"start": 10.0, "step": 200.0}, 10)
    close_unfinished(RunDir(run.path), "8")
    (said,) = events(run.path, "goodput")
    assert said["attempt"] == 1 and said["seconds"]["lost"] == 200 and said["seconds"]["start"] == 10
