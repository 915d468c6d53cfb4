"""`tmrc verify` on runs that were killed, changed with and without consent, and extended."""

from __future__ import annotations

import shutil
import time

import pytest

from tests.faults.verify.helpers import MORE, Train, faults, notes
from tests.train.conftest import NewTrial, spawn
from tmrc.config.load import load_config, write_config
from tmrc.config.rundir import RunDir
from tmrc.train import durable
from tmrc.verify.run import verify_run


def test_a_run_that_was_killed_changed_and_extended(new_trial: NewTrial, train: Train) -> None:
    """Rows and records after the newest checkpoint may be there or not; log_interval and the end may change."""
    trial = train(*MORE, "training.scheduler=cosine", "training.train_steps=10")
    kept = trial.run.attempt(1)
    shutil.copy(trial.run.config, kept / "config.yaml")
    changed = ["training.train_steps=15", "training.log_interval=3"]
    write_config(load_config(trial.run.config, changed), trial.run.config)
    train(again=trial)
    assert trial.steps == [1, 4, 8, 10, 12, 15]
    assert faults(trial.run) == {}
    shutil.rmtree(trial.run.checkpoints / "step_00000015")
    assert faults(trial.run) == {"events": ("step_00000015 was written, but is not there",)}
    events = trial.run.events.read_text().splitlines(keepends=True)
    trial.run.events.write_text("".join(line for line in events[:-1] if '"step": 15' not in line))
    trial.run.metrics.write_text("".join(trial.run.metrics.read_text().splitlines(keepends=True)[:-3]))
    trial.run.ledger.write_bytes(trial.ledger[:-50])
    assert faults(trial.run) == {}
    with trial.run.metrics.open("a") as file:
        file.write('{"step": 15, "lo')  # a line that is being written
    assert faults(trial.run) == {} and "its last row is not whole yet" in notes(trial.run)["metrics"]
    assert "; the run has not finished" in verify_run(trial.run).conclusion
    (kept / "config.yaml").write_text("training: [")
    assert list(faults(trial.run)) == ["configuration"]
    assert (
        len(faults(trial.run)["configuration"]) == 1
        and "attempts/1/config.yaml" in faults(trial.run)["configuration"][0]
    )


@pytest.mark.campaign
def test_a_run_that_goes_on_and_is_killed_has_no_faults(new_trial: NewTrial) -> None:
    trial = new_trial("training.save_every=0.05", "training.train_steps=500", "training.log_interval=3")
    for seconds in (20, 20, 120):
        process, end = spawn(trial), time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            assert faults(trial.run) == {}
        process.kill()
        process.wait()
        assert faults(trial.run) == {}


def test_a_list_of_permissions_that_cannot_be_read_is_mentioned(run: RunDir) -> None:
    run.allowed.write_text("{")
    assert faults(run, read_data=False) == {} and "allowed.json cannot be read" in notes(run)["configuration"]


def test_an_edited_configuration_is_told_from_one_that_was_let_change(run: RunDir) -> None:
    write_config(load_config(run.config, ["optimizer.lr=0.02", "training.warmup_steps=1"]), run.config)
    (line,) = faults(run)["configuration"]
    assert "optimizer.lr from 0.01 to 0.02" in line and "training.warmup_steps" in line
    durable.write_json(run.allowed, {"optimizer.lr": 0.02, "training.warmup_steps": 1})
    assert "configuration" not in faults(run)


def test_what_was_changed_with_consent_is_told(train: Train) -> None:
    trial = train("training.train_steps=8", "training.val_interval=0")
    for attempt, (steps, rate) in enumerate(((10, 0.02), (12, 0.03)), 1):
        shutil.copy(trial.run.config, trial.run.attempt(attempt) / "config.yaml")
        changed = [f"training.train_steps={steps}", f"optimizer.lr={rate}"]
        write_config(load_config(trial.run.config, changed), trial.run.config)
        durable.write_json(trial.run.allowed, {"optimizer.lr": rate})
        waiting = f"optimizer.lr was let change from {rate - 0.01:.2f} to {rate} for the next attempt"
        assert faults(trial.run) == {} and notes(trial.run)["configuration"].endswith(waiting)
        train(again=trial)
    assert faults(trial.run) == {}
    told = [
        f"optimizer.lr was let change from {a} to {b} at step {n}" for a, b, n in ((0.01, 0.02, 8), (0.02, 0.03, 10))
    ]
    assert notes(trial.run) == {"configuration": "; ".join(told)}


def test_validations_that_were_changed_with_consent(train: Train) -> None:
    """Each attempt's own configuration says which there are."""
    trial = train("training.train_steps=10", "training.val_interval=4", "datasets.val_split_size=0.2")
    for attempt, (steps, interval) in enumerate(((15, 0), (20, 5), (26, 6)), 1):
        shutil.copy(trial.run.config, trial.run.attempt(attempt) / "config.yaml")
        changed = [f"training.train_steps={steps}", f"training.val_interval={interval}"]
        write_config(load_config(trial.run.config, changed), trial.run.config)
        durable.write_json(trial.run.allowed, {"training.val_interval": interval})
        train(again=trial)
        assert faults(trial.run) == {}
    assert sorted(trial.validations) == [0, 4, 8, 10, 20, 24, 26]
