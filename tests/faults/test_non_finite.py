"""A loss or a gradient that is not finite, on one rank or on all: every rank stops at the same step, in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.conftest import NewTrial, Trial, finish, spawn
from tests.train.test_stop import EVERY_STEP, ask, before
from tmrc.train.loop import Loop
from tmrc.train.step import LossModule, Stepper

Train = Callable[..., Trial]
FLOAT16 = "model.autocast_precision=float16"

# The trainer, whose loss on rank 1 is NaN in its third step
SPOILT = """
import math, os, sys
from tmrc.train.run import main
from tmrc.train.step import LossModule
forward, calls = LossModule.forward, []

def spoilt(self, *about):
    calls.append(1)
    loss = forward(self, *about)
    return loss * math.nan if self.training and sum(calls) == 4 and os.environ["RANK"] == "1" else loss

LossModule.forward = spoilt
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def spoil_loss(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`spoil_loss(3)`: the loss of step 3 is NaN."""

    def spoil(step: int) -> None:
        backward = Stepper.backward

        def spoilt(self: Stepper, *about: Any, **more: Any) -> Any:
            bound = dict(zip(("batch", "index", "step", "scale", "last"), about, strict=False))
            if {**bound, **more}["step"] != step - 1:
                return backward(self, *about, **more)
            forward = LossModule.forward
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(LossModule, "forward", lambda *given: forward(*given) * math.nan)
                return backward(self, *about, **more)

        monkeypatch.setattr(Stepper, "backward", spoilt)

    return spoil


@pytest.fixture
def spoil_gradient(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`spoil_gradient(3)`: one gradient of step 3 is infinite."""

    def spoil(step: int) -> None:
        update = Stepper.update

        def spoilt(self: Stepper, at: int, *about: Any, **more: Any) -> Any:
            if at == step - 1:
                next(one.grad for one in self._parameters if one.grad is not None).view(-1)[0] = math.inf
            return update(self, at, *about, **more)

        monkeypatch.setattr(Stepper, "update", spoilt)

    return spoil


def test_a_loss_on_one_rank_of_two_stops_both_at_the_same_step(new_trial: NewTrial, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt.py"
    spoilt.write_text(SPOILT)
    trial = new_trial(EVERY_STEP, "training.val_interval=0", "training.micro_batch_size=4")
    # One forward pass to warm up, then one for each step: the fourth is that of step 3.
    said = finish(spawn(trial, 2, trainer=(str(spoilt),)), expect=1)
    outcomes = [json.loads((trial.run.attempt(1) / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    assert [(one["step"], one["kind"], one["exit_code"]) for one in outcomes] == [(3, "non_finite", 1)] * 2
    assert outcomes[0]["message"] == outcomes[1]["message"]
    assert "the loss of step 3 is not finite; sequences " in outcomes[0]["message"]
    assert sum("is not finite" in line for line in said.splitlines()) == 2  # a line from each rank
    assert said.count("Traceback") == 1  # torchrun's own
    assert trial.saved_steps() == [1, 2]


def test_one_between_two_looks_is_found_at_the_next_and_named_by_its_own_step(
    train: Train, new_trial: NewTrial, spoil_loss: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On GPUs nobody looks between log steps, so training has gone on; nothing of that is saved or logged."""
    after_step = Loop._after_step

    def as_on_a_gpu(self: Loop, *about: Any) -> bool:
        self._on_cpu = False
        try:
            return after_step(self, *about)
        finally:
            self._on_cpu = True

    overrides = ("training.log_interval=5", "training.val_interval=0", "training.train_steps=10")
    whole, trial = train(*overrides), new_trial(*overrides)
    monkeypatch.setattr(Loop, "_after_step", as_on_a_gpu)
    monkeypatch.setattr(Loop, "_save_is_due", lambda self: self.progress.step == 1)
    spoil_loss(3)
    train(again=trial, expect=1)
    (event,) = trial.events("failed")
    assert "the loss of step 3 is not finite" in event["cause"] and event["step"] == 5
    assert trial.saved_steps() == [2] and trial.steps == [1]
    monkeypatch.undo()
    train(again=trial)
    assert trial.exact_rows == whole.exact_rows and trial.tensor_files() == whole.tensor_files()


def test_an_infinite_gradient_is_told_from_a_loss(
    train: Train, new_trial: NewTrial, spoil_gradient: Callable[[int], None], capfd: pytest.CaptureFixture[str]
) -> None:
    trial = new_trial(EVERY_STEP)
    spoil_gradient(4)
    train(again=trial, expect=1)
    said = capfd.readouterr().err
    assert "the gradient of step 4 is not finite" in said and len(said.splitlines()) == 1
    assert trial.saved_steps() == [2, 3]


def test_float16s_scaler_passes_an_overflow_over_and_a_nan_loss_stops_it_all_the_same(
    train: Train, new_trial: NewTrial, spoil_gradient: Callable[[int], None], spoil_loss: Callable[[int], None]
) -> None:
    spoil_gradient(3)
    whole, cut = train(EVERY_STEP, FLOAT16), new_trial(EVERY_STEP, FLOAT16)
    assert whole.events("finished") and not whole.events("non_finite")
    with before("loop", "Loop._train_step", 4, ask):
        train(again=cut, expect=75)
    states = [json.loads((path / "trainer.json").read_text()) for path in sorted(cut.run.checkpoints.glob("step_*"))]
    assert states[-1]["scaler"]["scale"] == torch.amp.GradScaler("cpu").get_scale() / 2
    train(again=cut)
    assert cut.exact_rows == whole.exact_rows and cut.tensor_files() == whole.tensor_files()
    spoil_loss(5)
    stopped = train(EVERY_STEP, FLOAT16, expect=1)
    assert "the loss of step 5 is not finite" in stopped.events("failed")[0]["cause"]
    assert stopped.saved_steps() == [3, 4]


def test_gradients_that_always_overflow_float16_are_not_passed_over_for_ever(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Stepper.update

    def spoilt(self: Stepper, *about: Any) -> Any:
        next(one.grad for one in self._parameters if one.grad is not None).view(-1)[0] = math.inf
        return update(self, *about)

    monkeypatch.setattr(Stepper, "update", spoilt)
    trial = train(FLOAT16, "training.train_steps=100", "training.val_interval=0", expect=1)
    (event,) = trial.events("failed")
    assert event["kind"] == "non_finite" and "autocast_precision" in event["cause"]
    assert event["step"] == 31 and trial.saved_steps() == []
