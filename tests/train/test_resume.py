"""An interrupted run equals an uninterrupted one, bit for bit."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.train.conftest import NewTrial, Trial, finish, spawn
from tmrc.config.load import load_config, write_config
from tmrc.train import durable
from tmrc.verify.run import verify_run

LONG = ["training.train_steps=400", "training.log_interval=7", "training.val_interval=50", "model.dropout_p=0.2"]
Train = Callable[..., Trial]


def wait_for_step(trial: Trial, step: int) -> None:
    """Return when the run has logged `step`."""
    deadline = time.monotonic() + 90
    while not any(logged >= step for logged in trial.steps):
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.02)


def pid_of(trial: Trial, attempt: int, rank: int) -> int:
    """Process id of a rank as it announced itself."""
    return int((trial.run.attempt(attempt) / f"rank_{rank}.pid").read_text().split()[1])


def wait_for_end(pids: list[int], complaint: str) -> None:
    """Return when none of the processes is left; one that stays is killed."""
    deadline = time.monotonic() + 30
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(complaint)
        time.sleep(0.1)


@pytest.mark.parametrize(("processes", "rank"), [(1, 0), pytest.param(2, 1, marks=pytest.mark.campaign)])
def test_a_stop_signal_to_any_rank_saves_and_the_resumed_run_is_equal(
    new_trial: NewTrial, processes: int, rank: int
) -> None:
    whole, cut = new_trial(*LONG), new_trial(*LONG)
    finish(spawn(whole, processes))
    process = spawn(cut, processes)
    wait_for_step(cut, 20)
    os.kill(pid_of(cut, 1, rank), signal.SIGUSR2)
    finish(process, expect=75 if processes == 1 else 0)  # torchrun is told 0; the truth is in the rank files
    stopped_at = cut.saved_steps()[-1]
    assert 20 <= stopped_at < 400
    assert (cut.run.attempt(1) / f"rank_{rank}.json").read_text().count("SIGUSR2") == 1
    finish(spawn(cut, processes))
    assert cut.events("resumed")[0]["step"] == stopped_at
    assert cut.exact_rows == whole.exact_rows
    assert cut.ledger == whole.ledger
    assert not [check for check in verify_run(cut.run).checks if check.faults]
    assert cut.tensor_files() == whole.tensor_files()


def test_after_sigkill_the_run_goes_on_from_the_last_checkpoint(new_trial: NewTrial) -> None:
    whole, cut = new_trial(*LONG), new_trial(*LONG, "training.save_every=0.2")
    finish(spawn(whole))
    process = spawn(cut)
    wait_for_step(cut, 100)
    process.kill()
    process.wait()
    with cut.run.metrics.open("a") as file:
        file.write('{"step": 399, "lo')  # a line that the kill cut off
    finish(spawn(cut))
    assert cut.exact_rows == whole.exact_rows
    assert cut.ledger == whole.ledger
    assert cut.tensor_files() == whole.tensor_files()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_save_as_well(new_trial: NewTrial, number: signal.Signals) -> None:
    trial = new_trial(*LONG)
    process = spawn(trial)
    wait_for_step(trial, 7)
    process.send_signal(number)
    process.send_signal(number)  # a second one changes nothing
    finish(process, expect=75)
    assert len(trial.saved_steps()) == 1


def wait_until_it_listens(pid: int) -> None:
    """Return when the process holds back the signal that asks it to stop."""
    deadline = time.monotonic() + 90
    while True:
        (held,) = re.findall(r"^SigBlk:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        if int(held, 16) >> (signal.SIGUSR2 - 1) & 1:
            return
        assert time.monotonic() < deadline, "it does not come to hold back the signal"
        time.sleep(0.005)


def test_a_signal_during_start_up_is_not_lost(new_trial: NewTrial) -> None:
    whole, cut = new_trial(), new_trial()
    finish(spawn(whole))
    process = spawn(cut)
    wait_until_it_listens(process.pid)  # long before it has imported everything
    process.send_signal(signal.SIGUSR2)
    finish(process, expect=75)
    assert cut.saved_steps() == []  # there was nothing to save
    finish(spawn(cut))
    assert cut.exact_rows == whole.exact_rows


def test_a_stop_during_validation_validates_after_the_resume(new_trial: NewTrial, train: Train) -> None:
    """The validation that was abandoned is run by the next attempt, before its first step."""
    from tmrc.train import evaluate

    whole = train()
    cut = new_trial()
    original = evaluate.Validation.run
    calls = []

    def interrupted(self, module, build_mask, probe, _):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGUSR2)
        return original(self, module, build_mask, probe, _)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.Validation, "run", interrupted)
        train(again=cut, expect=75)
    assert cut.saved_steps() == [3]
    assert list(cut.validations) == [0]
    train(again=cut)
    assert cut.exact_rows == whole.exact_rows
    assert cut.tensor_files() == whole.tensor_files()


def test_a_damaged_newest_checkpoint_is_passed_over(
    new_trial: NewTrial, train: Train, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = train()
    cut = train("training.train_steps=6", "training.save_every=0.000001")
    assert cut.saved_steps() == [5, 6]
    (cut.run.checkpoints / "step_00000006" / "model.safetensors").write_bytes(b"")
    train(again=cut)
    assert "step_00000006: model.safetensors" in capfd.readouterr().err
    (line,) = cut.events("resumed")[0]["passed_over"]  # for whoever does not read the log
    assert "step_00000006: model.safetensors" in line
    assert cut.exact_rows == whole.exact_rows
    assert cut.ledger == whole.ledger
    assert cut.tensor_files() == whole.tensor_files()


def test_damaged_checkpoints_never_push_out_good_ones(train: Train) -> None:
    trial = train("training.save_every=0.000001", "training.keep_checkpoints=3")
    for step in (5, 6):
        (trial.run.checkpoints / f"step_{step:08d}" / "model.safetensors").write_bytes(b"")
    write_config(load_config(trial.run.config, ["training.keep_checkpoints=2"]), trial.run.config)
    train(again=trial)
    assert trial.saved_steps() == [5, 6]
    assert sorted(path.name for path in trial.run.checkpoints.glob("damaged_*")) == [
        "damaged_step_00000005",
        "damaged_step_00000006",
    ]
    for path in trial.run.checkpoints.glob("step_*"):
        assert durable.problem(path) is None


def test_a_validation_is_logged_once_though_it_is_run_again(new_trial: NewTrial, train: Train) -> None:
    """Killed after the first validation and before any checkpoint, a run validates again when it starts again."""
    whole, cut = train(), new_trial()
    with cut.run.metrics.open("w") as file:
        file.write('{"step": 0, "val_loss": 1.0, "time": 0}\n{"a": 1}\n[]\n{"step": "x"}\n{"step": 1, "loss": 9.9}\n')
    train(again=cut)
    assert cut.exact_rows == whole.exact_rows


def test_ranks_end_with_their_torchrun(new_trial: NewTrial) -> None:
    trial = new_trial(*LONG, "training.train_steps=100000")
    process = spawn(trial, 2)
    wait_for_step(trial, 7)
    ranks = [pid_of(trial, 1, rank) for rank in (0, 1)]
    process.kill()
    process.wait()
    wait_for_end(ranks, "a rank trains on alone")
    assert trial.saved_steps()  # they were asked, not killed


def test_ranks_that_stand_still_when_their_torchrun_dies_end_as_well(new_trial: NewTrial) -> None:
    trial = new_trial(*LONG)
    process = spawn(trial, 2, ("-m", "tests.train.paused", "loop:Loop._train_step:9:stuck"))
    wait_for_step(trial, 7)
    ranks = [pid_of(trial, 1, rank) for rank in (0, 1)]
    process.kill()
    process.wait()
    wait_for_end(ranks, "a rank is left")


def test_all_checkpoints_damaged_is_refused(train: Train, capfd: pytest.CaptureFixture[str]) -> None:
    trial = train("training.save_every=0.000001")
    for path in trial.run.checkpoints.glob("step_*/manifest.json"):
        path.unlink()
    before = trial.rows
    train(again=trial, expect=2)
    assert "every checkpoint is damaged" in capfd.readouterr().err
    assert trial.rows == before


def test_a_finished_run_started_again_changes_nothing(train: Train) -> None:
    trial = train()
    rows, tensors = trial.rows, trial.tensor_files()
    train(again=trial)
    assert (trial.rows, trial.tensor_files()) == (rows, tensors)


def test_changed_data_is_refused(
    new_trial: NewTrial, train: Train, dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:

    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    trial = train(f"datasets.path={copy}", "training.train_steps=3")
    (copy / "tiny_1.bin").unlink()
    metadata = copy / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace(str(dataset), str(copy)))
    write_config(load_config(trial.run.config, ["training.train_steps=6"]), trial.run.config)
    train(again=trial, expect=2)
    assert "the shards are not those" in capfd.readouterr().err
