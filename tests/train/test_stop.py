"""A request to stop at any moment ends the run in order: quickly, with code 75, and with nothing lost."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.train.conftest import NewTrial, Trial, finish, spawn
from tests.train.ranks import expect, launch
from tmrc.train.stop import STOP_SIGNALS

Train = Callable[..., Trial]
EVERY_STEP = "training.save_every=0.000001"


@contextmanager
def before(module: str, name: str, call: int, act: Callable[[], object]) -> Iterator[None]:
    """`act()` before call number `call` of the function `name` in tmrc.train.`module`."""
    owner: Any = import_module(f"tmrc.train.{module}")
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original, calls = getattr(owner, last), itertools.count(1)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            act()
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, last, wrapped)
        yield


def ask(number: int = signal.SIGUSR2) -> None:
    os.kill(os.getpid(), number)


def checkpoint_files(trial: Trial) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in trial.run.checkpoints.glob("step_*/*")}


PHASES = [
    ("run", "load_config"),
    ("start", "plan_data"),
    ("start", "take_over"),
    ("start", "newest_checkpoint"),
    ("start", "build_parts"),
    ("start", "load_model"),
    ("start", "rewind"),
    ("loop", "Loop.run"),
]


@pytest.mark.parametrize(("module", "name"), PHASES)
def test_a_signal_before_the_first_step_keeps_the_checkpoint_and_the_run_goes_on(
    new_trial: NewTrial, train: Train, module: str, name: str
) -> None:
    whole = train(EVERY_STEP)
    cut = new_trial(EVERY_STEP)
    with before("loop", "Loop._train_step", 3, ask):
        train(again=cut, expect=75)
    assert cut.saved_steps() == [2, 3]
    saved = checkpoint_files(cut)
    with before(module, name, 1, ask):
        train(again=cut, expect=75)
    if name != "Loop.run":  # by then the first step may be done and saved as well
        assert checkpoint_files(cut) == saved
    said = json.loads((cut.run.attempt(2) / "rank_0.json").read_text())
    assert (said["status"], said["kind"], said["step"]) == ("stopped", "stopped", cut.saved_steps()[-1])
    assert [event["cause"] for event in cut.events("signal")] == ["SIGUSR2", "SIGUSR2"]
    train(again=cut)
    assert cut.exact_rows == whole.exact_rows
    assert cut.tensor_files() == whole.tensor_files()


@pytest.mark.parametrize(("module", "name"), [("start", "plan_data"), ("step", "Stepper.warm_up")])
def test_work_at_the_start_is_cut_short(train: Train, new_trial: NewTrial, module: str, name: str) -> None:
    """Compilation can take longer than the time that is given: it is not waited for."""
    asked = threading.Event()

    def take_long() -> None:
        threading.Timer(0.2, lambda: (asked.set(), ask())).start()
        time.sleep(600)

    cut = new_trial("training.compile=true")
    with before(module, name, 1, take_long):
        train(again=cut, expect=75)
    assert asked.is_set()
    assert cut.rows == [] and cut.saved_steps() == []


@pytest.mark.parametrize(
    "place",
    [
        "distributed:dist.init_process_group:1:SIGUSR2:0",
        "start:plan_data:1:SIGTERM:1",
        "setup:DistributedDataParallel:1:SIGINT:1",
        "step:Stepper.warm_up:1:SIGUSR2:0",
        "start:load_optimizer:1:SIGUSR2:0",
    ],
)
def test_a_signal_to_one_of_two_ranks_before_the_first_step_stops_both(
    new_trial: NewTrial, tmp_path: Path, place: str
) -> None:
    trial = new_trial("training.train_steps=2", EVERY_STEP)
    expect(launch(trial, 2), 0)
    saved = checkpoint_files(trial)
    expect(launch(trial, 2, place), 75)
    assert checkpoint_files(trial) == saved
    said = [json.loads((trial.run.attempt(2) / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    assert [(one["exit_code"], one["kind"], one["step"]) for one in said] == [(75, "stopped", 2)] * 2
    causes = {one["message"].partition("(")[2].partition(")")[0] for one in said}
    assert causes == {place.split(":")[3], "signal on another rank"}


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("moment", ["seal", "commit"])
def test_a_second_signal_does_not_cut_a_save_short(train: Train, new_trial: NewTrial, number: int, moment: str) -> None:
    whole, cut = train(), new_trial()
    with before("loop", "Loop._train_step", 4, ask), before("durable", moment, 1, lambda: (ask(number), ask(number))):
        train(again=cut, expect=75)
    assert cut.saved_steps() == [5]  # the request came when step 4 had begun
    train(again=cut)
    assert cut.exact_rows == whole.exact_rows
    assert cut.tensor_files() == whole.tensor_files()


def test_a_stop_with_a_save_due_saves_once(train: Train, new_trial: NewTrial) -> None:
    for name, moment in (("_train_step", 3), ("_save", 2)):
        trial = new_trial(EVERY_STEP)
        with before("loop", f"Loop.{name}", moment, ask):
            train(again=trial, expect=75)
        assert [event["step"] for event in trial.events("checkpoint")] == [1, 2, 3]
        assert len(trial.events("signal")) == 1


def test_a_signal_while_the_process_ends_does_not_change_its_exit_code(new_trial: NewTrial) -> None:
    trial = new_trial("training.train_steps=1")
    wrapper = (
        "import atexit, os, signal, sys; from tmrc.train.run import main; "
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM); sys.exit(main(sys.argv[1:]))"
    )
    finish(spawn(trial, trainer=("-c", wrapper)), expect=0)


def test_a_process_that_was_told_to_ignore_a_hangup_does(new_trial: NewTrial) -> None:
    trial = new_trial("training.train_steps=2")
    wrapper = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); from tests.train import paused; "
        "paused.pause_before('run:load_config:1:SIGHUP'); sys.exit(paused.main(sys.argv[1:]))"
    )
    finish(spawn(trial, trainer=("-c", wrapper)), expect=0)
