"""What only a GPU shows; skipped without one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.train.conftest import NewTrial, Trial, finish, spawn
from tests.train.test_resume import pid_of, wait_for_step
from tmrc.train.loop import Loop
from tmrc.train.step import Stepper

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ON_GPU = ["training.device=cuda", "training.train_steps=400", "training.val_interval=50", "training.log_interval=5"]


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_flex_trains_with_the_document_mask(new_trial: NewTrial, precision: str) -> None:
    trial = new_trial(*ON_GPU, f"model.autocast_precision={precision}")
    finish(spawn(trial))
    assert trial.losses[-1] < 0.7 * trial.losses[0]


def test_a_resumed_run_is_equal_bit_for_bit(new_trial: NewTrial) -> None:
    exact = [*ON_GPU, "training.deterministic=true", "model.dropout_p=0.1"]
    whole, cut = new_trial(*exact), new_trial(*exact)
    finish(spawn(whole))
    process = spawn(cut)
    wait_for_step(cut, 20)
    os.kill(pid_of(cut, 1, 0), signal.SIGUSR2)
    finish(process, expect=75)
    finish(spawn(cut))
    assert cut.exact_rows == whole.exact_rows
    assert cut.tensor_files() == whole.tensor_files()


def test_gpu_and_cpu_learn_the_same(new_trial: NewTrial) -> None:
    on_gpu, on_cpu = (
        new_trial(f"training.device={device}", "model.autocast_precision=float32") for device in ("cuda", "cpu")
    )
    finish(spawn(on_gpu))
    finish(spawn(on_cpu))
    assert on_gpu.losses == pytest.approx(on_cpu.losses, rel=1e-3)


def test_only_rows_make_the_host_wait(train: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    """Between them a call that waits for the GPU is an error; accumulation, clipping and the mask are in."""

    def strict(method: Callable[[Loop, Any], Any], after: bool) -> Callable[[Loop, Any], Any]:
        def run(loop: Loop, given: Any) -> Any:
            step = loop.progress.step + (not after)
            torch.cuda.set_sync_debug_mode("default" if step in (1, 8) else "error")
            try:
                return method(loop, given)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return run

    monkeypatch.setattr(Loop, "_train_step", strict(Loop._train_step, after=False))
    monkeypatch.setattr(Loop, "_after_step", strict(Loop._after_step, after=True))
    quiet = ["training.train_steps=8", "training.log_interval=100", "training.val_interval=0"]
    trial = train("training.device=cuda", "training.micro_batch_size=4", "training.grad_clip=1.0", *quiet)
    assert trial.steps == [1, 8]


def test_nothing_is_compiled_once_training_has_begun(
    train: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step, its validation and the mask are each one graph; the validation before the first step is in."""
    graphs: list[int] = []
    update = Stepper.update

    def counted(stepper: Stepper, step: int, learning_rate: float) -> torch.Tensor:
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        return update(stepper, step, learning_rate)

    monkeypatch.setattr(Stepper, "update", counted)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    train(
        "training.device=cuda", "training.micro_batch_size=4", "datasets.val_split_size=0.3", "training.val_batches=4"
    )
    assert graphs == [graphs[0]] * 6 and graphs[0] > 0
