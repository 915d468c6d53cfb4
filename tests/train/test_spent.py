"""Rank 0's account of its time, and what becomes of it when a real run is killed."""

from __future__ import annotations

import ast
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tmrc.train
from tests.train.conftest import NewTrial, Trial, finish, spawn
from tests.train.test_resume import wait_for_step
from tmrc.config.goodput import BUCKETS, MEASURED, AttemptAccount, account
from tmrc.config.traces import read_spent
from tmrc.train import spent as module
from tmrc.train.spent import BUCKET_OF, ENDING, Spent

LONG = ["training.train_steps=1000000", "training.log_interval=5", "training.val_interval=50"]
BEATS = {"pulse", "_pulse", "_phase", "_lead"}  # what begins a phase when it is called with its name


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(module.time, "time", lambda: 5000.0)
    return now


def test_each_phase_counts_for_its_bucket_until_the_next_begins(tmp_path: Path, clock: list[float]) -> None:
    spent = Spent(tmp_path / "spent.json")
    for seconds, phase in (
        (1.0, "compiling"), (2.0, "agreeing with the other ranks"), (4.0, "reading data"),
        (8.0, "forward and backward"), (16.0, "agreeing with the other ranks"), (32.0, "no such phase"),
        (64.0, "validating"),
    ):  # fmt: skip
        clock[0] += seconds
        spent.begin(phase, 7)
    clock[0] += 128
    expected = {"start": 1, "compile": 2 + 4, "data_wait": 8, "step": 16 + 32 + 64, "validation": 128, "save": 0}
    assert spent.so_far() == {**expected, "idle": 0}
    spent.close()
    found = read_spent(tmp_path / "spent.json")
    assert found is not None and (found.began, found.at, found.step, found.phase) == (5000, 5255, 7, "validation")
    assert found.seconds == spent.so_far()


def test_it_is_written_once_a_second_and_around_what_is_long(tmp_path: Path, clock: list[float]) -> None:
    file = tmp_path / "spent.json"
    spent = Spent(file)
    written = []
    for phase in ["reading data", "forward and backward"] * 50 + ["writing a checkpoint", "reading data", "ending"]:
        clock[0] += 0.125
        spent.begin(phase, 1)
        if file.exists():
            written.append(json.loads(file.read_text())["phase"])
            file.unlink()
    assert len(written) == 12 + 3 and written[-3:] == ["save", "data_wait", ENDING]
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "spent.json").mkdir()
    for file in (tmp_path / "nowhere" / "spent.json", tmp_path / "spent.json"):
        spent = Spent(file)
        spent.begin("compiling", 0)
        spent.close()
    assert set(spent.so_far()) == {*MEASURED, ENDING} <= set(BUCKETS)


def test_every_phase_of_the_trainer_has_a_bucket() -> None:
    named = set()
    for file in Path(tmrc.train.__path__[0]).glob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call) or not call.args or not isinstance(call.args[0], ast.Constant):
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            named |= {call.args[0].value} if name in BEATS else set()
    assert named == set(BUCKET_OF)
    assert set(BUCKET_OF.values()) == {*MEASURED, ENDING, None}


def wait_until_written(trial: Trial, patience: float = 60.0) -> None:
    """Return when the sums tell of steps after the first checkpoint, with no other checkpoint being written."""
    deadline = time.monotonic() + patience
    saved = trial.events("checkpoint")[0]
    while not (
        (found := read_spent(trial.run.attempt(1) / "spent.json"))
        and found.phase in ("step", "data_wait", "validation")
        and found.at > saved["time"] + 0.5
    ):
        assert time.monotonic() < deadline, "nothing is written"
        time.sleep(0.01)


def on_nodes(one: AttemptAccount) -> float:
    return sum(seconds for name, seconds in one.seconds.items() if name != "queue")


def killed_and_resumed(new_trial: NewTrial) -> Trial:
    """A run that is killed when it has a checkpoint and more, and then goes on for a second and stops in order."""
    trial = new_trial(*LONG, "training.save_every=3")
    process = spawn(trial)
    while not trial.events("checkpoint"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    wait_until_written(trial)
    process.send_signal(signal.SIGKILL)
    finish(process, expect=-signal.SIGKILL)
    process = spawn(trial)
    while not trial.events("resumed"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    wait_for_step(trial, trial.events("resumed")[0]["step"] + 30)
    process.send_signal(signal.SIGUSR2)
    finish(process, expect=75)
    return trial


def test_a_run_that_is_killed_and_resumed_adds_up(new_trial: NewTrial) -> None:
    trial = killed_and_resumed(new_trial)
    found = account(trial.run)
    killed, stopped = found.attempts
    for one in found.attempts:
        assert not one.going_on and one.measured
        assert on_nodes(one) == pytest.approx(one.ended - one.began)
        assert all(one.seconds[name] > 0 for name in ("start", "step", "data_wait", "save")), one.seconds
        assert min(one.seconds.values()) >= 0
    assert found.wall == pytest.approx(sum(one.ended - one.began for one in found.attempts))
    assert killed.seconds["validation"] > 0  # the one before the first step, at least
    assert killed.seconds["lost"] > 0 and stopped.seconds["lost"] == 0
    assert (killed.interrupted, stopped.interrupted, found.interruptions) == (True, False, 1)
    assert stopped.ended - stopped.began < 60 and stopped.seconds["idle"] < stopped.seconds["step"] + 5
    assert len(trial.events("checkpoint")) == 2 and found.saves == 1  # the last one was waited for
    assert found.save_every is not None
    assert 0 < (found.goodput or 0) < 1
    # What the killed one had lost is what it had done since the checkpoint that the next one went on from.
    base = next(row for row in trial.events("checkpoint") if row["step"] == trial.events("resumed")[0]["step"])
    last = read_spent(trial.run.attempt(1) / "spent.json")
    assert last is not None
    after = sum(last.seconds[name] - base["spent"][name] for name in ("step", "data_wait", "validation"))
    assert killed.seconds["lost"] == pytest.approx(after, abs=1e-4) and after > 0.3


def test_the_sums_of_a_whole_run(train: Callable[..., Trial]) -> None:
    trial = train("training.compile=false")
    (one,) = account(trial.run).attempts
    assert one.seconds["validation"] > 0 and one.seconds["save"] > 0 and one.seconds["lost"] == 0
    assert one.seconds["compile"] == 0 and not one.interrupted
    said = json.loads((trial.run.attempt(1) / "spent.json").read_text())
    assert said["phase"] == "idle" and said["step"] == 6
    assert sum(said["seconds"].values()) == pytest.approx(said["at"] - said["began"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.campaign
def test_two_ranks_that_compile_write_one_account(new_trial: NewTrial) -> None:
    trial = new_trial("training.train_steps=5", "training.compile=true")
    finish(spawn(trial, 2))
    (one,) = account(trial.run).attempts
    assert one.seconds["compile"] > one.seconds["save"] > 0
    assert [path.name for path in trial.run.path.rglob("*spent*")] == ["spent.json"]
